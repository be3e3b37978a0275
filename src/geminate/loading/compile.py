"""From configuration and weights to a compiled model, by the plan of its family."""

from __future__ import annotations

from geminate.backends.base import Backend
from geminate.errors import ConfigError
from geminate.families.registry import family_of
from geminate.kv.store import KVFormat
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.runtime.compatibility import check_fit
from geminate.runtime.drafter import DrafterModel, RopePosition
from geminate.runtime.target import TargetModel
from geminate.weights.store import WeightStore


def compile_target(
    config: TargetConfig, store: WeightStore, backend: Backend, *, max_rows: int, kv: KVFormat = "f16"
) -> TargetModel:
    """A target; see `TargetModel`."""
    plan = family_of(config.model_type).plan(config, store)
    return TargetModel(config, store, plan, backend, max_rows=max_rows, kv_format=kv)


def compile_drafter(
    config: AssistantConfig, store: WeightStore, target: TargetModel, rope_position: RopePosition = "P"
) -> DrafterModel:
    """A drafter bound to its target; see `DrafterModel`.

    Raises:
        DrafterMismatchError: the drafter does not fit the target.
    """
    check_fit(target.config, config)
    family = family_of(config.model_type)
    if family.drafter is None:
        raise ConfigError(f"model_type {config.model_type!r} has no drafters")
    plan = family.drafter.plan(config, store, target.config, target.store)
    return DrafterModel(config, store, plan, target, rope_position)
