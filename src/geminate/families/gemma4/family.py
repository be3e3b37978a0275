"""Gemma 4 as a family."""

from __future__ import annotations

from geminate.families.base import DrafterFamily, Family
from geminate.families.decoder.plan import target_plan
from geminate.families.gemma4.config import DRAFTER_TYPES, TARGET_TYPES, drafter_config, target_config
from geminate.families.gemma4.dialect import DIALECT
from geminate.families.gemma4.drafter_plan import drafter_plan
from geminate.families.gemma4.gguf import DRAFTER, NAMES, gguf_config
from geminate.families.gemma4.gguf_drafter import drafter_gguf

GEMMA4 = Family(
    model_types=TARGET_TYPES,
    gguf_architectures=("gemma4", DRAFTER),
    config=target_config,
    gguf_config=gguf_config,
    gguf_names=NAMES,
    plan=target_plan,
    drafter=DrafterFamily(model_types=DRAFTER_TYPES, config=drafter_config, plan=drafter_plan, gguf=drafter_gguf),
    dialect=DIALECT,
)
