"""Finds the family of a checkpoint: the one place that knows which families there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from geminate.checkpoint.adapter import Adapter
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf import GgufCheckpoint
from geminate.errors import ConfigError, shown
from geminate.families.base import Family, Model
from geminate.families.gemma3.family import GEMMA3
from geminate.families.gemma4.family import GEMMA4
from geminate.plan.config import AssistantConfig, CheckpointDtype, TargetConfig

FAMILIES: list[Family] = [GEMMA4, GEMMA3]


def family_of(model_type: object) -> Family:
    """The family of a ``model_type`` of config.json, target or drafter.

    Raises:
        ConfigError: none has it.
    """
    for family in FAMILIES:
        if model_type in family.model_types or model_type in family.drafter_types:
            return family
    known = ", ".join([t for f in FAMILIES for t in f.model_types] + [t for f in FAMILIES for t in f.drafter_types])
    if model_type is None:
        raise ConfigError(f"the configuration has no model_type; known: {known}")
    raise ConfigError(f"model_type {shown(model_type)} is not supported; known: {known}")


def kind_of(raw: Mapping[str, Any]) -> Literal["target", "assistant"]:
    """Whether a config.json describes a target or a drafter.

    Raises:
        ConfigError: neither.
    """
    model_type = raw.get("model_type")
    return "assistant" if model_type in family_of(model_type).drafter_types else "target"


def open_model(source: str | Path | Checkpoint, adapters: Sequence[Adapter] = ()) -> Model:
    """A checkpoint with its family.

    Args:
        adapters: merged into the weights of a model that is named by its path.

    Raises:
        GeminateError: nothing there, damaged, or of no known family.
    """
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.open(source, adapters)
    if not isinstance(checkpoint, GgufCheckpoint):
        return Model(checkpoint, family_of(checkpoint.metadata.get("model_type")), checkpoint.metadata)
    for family in FAMILIES:
        if checkpoint.architecture in family.gguf_architectures and family.gguf_config is not None:
            return Model(checkpoint, family, family.gguf_config(checkpoint.file))
    known = ", ".join(a for family in FAMILIES for a in family.gguf_architectures)
    raise ConfigError(
        f"{checkpoint.path} has architecture {shown(checkpoint.architecture)}, which is not supported; known: {known}"
    )


def load_target_config(
    source: Path | Mapping[str, Any], *, embed_scale_dtype: CheckpointDtype | None = None
) -> TargetConfig:
    """The target's configuration from a checkpoint's path or a parsed config.json.

    Args:
        embed_scale_dtype: round embedding scales to this dtype instead of the checkpoint's.

    Raises:
        GeminateError: see `open_model` and `Family.read_target`.
    """
    family, raw, generation = _parts(source)
    return family.read_target(raw, generation, embed_scale_dtype)


def load_assistant_config(source: Path | Mapping[str, Any]) -> AssistantConfig:
    """The drafter's configuration from a checkpoint's path or a parsed config.json; see `load_target_config`."""
    family, raw, generation = _parts(source)
    return family.read_drafter(raw, generation)


def _parts(source: Path | Mapping[str, Any]) -> tuple[Family, Mapping[str, Any], Mapping[str, Any]]:
    if isinstance(source, Path):
        model = open_model(source)
        return model.family, model.raw, model.checkpoint.generation
    return family_of(source.get("model_type")), source, {}
