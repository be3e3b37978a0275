"""The toy family."""

from __future__ import annotations

from families.toy.config import target_config
from families.toy.dialect import DIALECT
from geminate.families.base import Family
from geminate.families.decoder.plan import target_plan

TOY = Family(model_types=("toy",), config=target_config, plan=target_plan, dialect=DIALECT)
