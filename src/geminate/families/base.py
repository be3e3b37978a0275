"""What a family of models is: everything that depends on who made a checkpoint, as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geminate.arrays import F32
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.gguf import GgufCheckpoint
from geminate.checkpoint.gguf_file import GgufFile
from geminate.checkpoint.gguf_tensors import GgufNames, canonical_tensors
from geminate.errors import ConfigError
from geminate.plan.builder import Weights
from geminate.plan.config import AssistantConfig, CheckpointDtype, TargetConfig
from geminate.plan.nodes import Plan
from geminate.text.dialect import PLAIN, Dialect
from geminate.weights.adapted import with_adapters
from geminate.weights.specs import unused_by

TargetReader = Callable[[Mapping[str, Any], Mapping[str, Any], CheckpointDtype | None], TargetConfig]
DrafterPlan = Callable[[AssistantConfig, Weights, TargetConfig, Weights], Plan]


@dataclass(frozen=True, kw_only=True)
class DrafterGguf:
    """A drafter's GGUF file, without weights and tokenizer.

    Attributes:
        metadata: by full key, see `write_gguf`. names: of tensors, by their canonical ones.
        extra: further tensors, float32.
    """

    architecture: str
    metadata: Mapping[str, Any]
    names: Mapping[str, str]
    extra: Mapping[str, F32]


@dataclass(frozen=True, kw_only=True)
class DrafterFamily:
    """A family's drafters.

    Attributes:
        model_types: of config.json.
        config: reads (config.json, generation_config.json).
        plan: of (drafter's configuration, its weights, target's configuration, its weights): one draft step.
        gguf: what a GGUF file of a drafter holds; None where there is no architecture for it.
    """

    model_types: tuple[str, ...]
    config: Callable[[Mapping[str, Any], Mapping[str, Any]], AssistantConfig]
    plan: DrafterPlan
    gguf: Callable[[AssistantConfig], DrafterGguf] | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        model_types: of config.json, for targets.
        gguf_architectures: of GGUF files, targets and drafters.
        config: reads (config.json, generation_config.json, dtype that embedding scales are rounded to or None).
        gguf_config: what config.json would say for a GGUF file. gguf_names: its tensors' names.
        plan: the target's forward pass.
        drafter: None for a family without.
        dialect: marks of turns, reasoning and tool calls.
    """

    model_types: tuple[str, ...]
    config: TargetReader
    plan: Callable[[TargetConfig, Weights], Plan]
    gguf_architectures: tuple[str, ...] = ()
    gguf_config: Callable[[GgufFile], dict[str, Any]] | None = None
    gguf_names: GgufNames | None = None
    drafter: DrafterFamily | None = None
    dialect: Dialect = PLAIN

    @property
    def drafter_types(self) -> tuple[str, ...]:
        """Values of ``model_type`` that are drafters."""
        return () if self.drafter is None else self.drafter.model_types

    def read_target(
        self, raw: Mapping[str, Any], generation: Mapping[str, Any], embed_scale_dtype: CheckpointDtype | None = None
    ) -> TargetConfig:
        """A target's configuration.

        Raises:
            ConfigError: it is a drafter, or the configuration is not supported.
        """
        model_type = raw.get("model_type")
        if model_type in self.drafter_types:
            raise ConfigError(f"model_type {model_type!r} is a drafter; name the target, and this with --drafter")
        return self.config(raw, generation, embed_scale_dtype)

    def read_drafter(self, raw: Mapping[str, Any], generation: Mapping[str, Any]) -> AssistantConfig:
        """A drafter's configuration.

        Raises:
            ConfigError: it is a target, or the configuration is not supported.
        """
        model_type, expected = raw.get("model_type"), ", ".join(self.drafter_types)
        if self.drafter is None or model_type not in self.drafter_types:
            hint = f"; expected one of {expected}" if expected else ""
            raise ConfigError(f"model_type {model_type!r} is not a drafter{hint}")
        return self.drafter.config(raw, generation)


class Model:
    """A checkpoint and the family that understands it.

    Attributes:
        raw: config.json, or what it would say for a GGUF file.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, raw: Mapping[str, Any]) -> None:
        self.checkpoint, self.family, self.raw = checkpoint, family, raw

    @property
    def path(self) -> Path:
        """Where it stands."""
        return self.checkpoint.path

    @property
    def is_drafter(self) -> bool:
        """Whether it is a drafter rather than a target."""
        return self.raw.get("model_type") in self.family.drafter_types

    @functools.cached_property
    def tensors(self) -> Mapping[str, Entry]:
        """Every weight, under the names of safetensors checkpoints, with the checkpoint's adapters merged.

        Raises:
            ModelNotFoundError, WeightsError: see `Checkpoint.tensors` and `with_adapters`.
        """
        found: Mapping[str, Entry] = self.checkpoint.tensors
        if isinstance(self.checkpoint, GgufCheckpoint) and self.family.gguf_names is not None:
            found = canonical_tensors(self.checkpoint.tensors, self.family.gguf_names)
        if not self.checkpoint.adapters:
            return found
        config = self.target_config()
        return with_adapters(found, self.checkpoint.adapters, tied=config.tied_head, unused=unused_by(config))

    def target_config(self) -> TargetConfig:
        """See `Family.read_target`."""
        try:
            return self.family.read_target(self.raw, self.checkpoint.generation)
        except ConfigError:
            if problem := self.checkpoint.undeclared():
                raise ConfigError(problem) from None
            raise

    def drafter_config(self) -> AssistantConfig:
        """See `Family.read_drafter`."""
        return self.family.read_drafter(self.raw, self.checkpoint.generation)
