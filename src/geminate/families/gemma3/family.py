"""Gemma 3 as a family: targets; it comes without drafters."""

from __future__ import annotations

from geminate.families.base import Family
from geminate.families.decoder.plan import target_plan
from geminate.families.gemma3.config import TARGET_TYPES, target_config
from geminate.families.gemma3.dialect import DIALECT
from geminate.families.gemma3.gguf import NAMES, gguf_config

GEMMA3 = Family(
    model_types=TARGET_TYPES,
    gguf_architectures=("gemma3",),
    config=target_config,
    gguf_config=gguf_config,
    gguf_names=NAMES,
    plan=target_plan,
    dialect=DIALECT,
)
