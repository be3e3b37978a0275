"""From names to a compiled pair: the one place where configs, weights, drafter and backend meet."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from geminate.backends.select import make_backend
from geminate.errors import ConfigError, ParameterError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.compile import compile_drafter, compile_target
from geminate.loading.locate import embedded_pair, locate_drafter, locate_model
from geminate.params import MAX_DRAFT
from geminate.runtime.drafter import DrafterModel, RopePosition
from geminate.runtime.target import TargetModel
from geminate.weights.packing import Progress
from geminate.weights.presets import Preset, check_preset
from geminate.weights.store import Message, open_weights


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a pair stands: the target's directory or GGUF file, and the drafter's or None."""

    target: Path
    drafter: Path | None


def locate(model: str | Path | None, drafter: str | Path | None) -> Located:
    """Find target and drafter; no model is the embedded pair, and ``embedded`` its drafter.

    Raises:
        ModelNotFoundError, ConfigError: see their messages.
    """
    if drafter == "embedded":
        drafter = embedded_pair()[1]
    if model is None:
        target, own = embedded_pair()
        if drafter == "auto":
            drafter = own if (own / "config.json").exists() else None
        return Located(target=target, drafter=locate_drafter("", target, drafter))
    target = locate_model(model)
    if open_model(target).is_drafter:
        raise ConfigError(f"{model} is a drafter; name its target, and this one with --drafter")
    return Located(target=target, drafter=locate_drafter(model, target, drafter))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A compiled target and its drafter, with where they came from; ``source`` is None for random weights."""

    located: Located
    source: Model | None
    target: TargetModel
    drafter: DrafterModel | None


def load_pair(
    model: str | Path | None = None,
    *,
    drafter: str | Path | None = "auto",
    weights: Preset = "auto",
    threads: int | None = None,
    prefill_chunk: int = 256,
    rope_position: RopePosition = "P",
    use_cache: bool = True,
    cache_dir: Path | None = None,
    prefault: bool = False,
    on_message: Message | None = None,
    progress: Progress | None = None,
) -> Pair:
    """Load and compile; see `geminate.LLM` for the arguments.

    Raises:
        GeminateError: with the cause and the way out.
    """
    check_preset(weights)
    if rope_position not in ("P", "P-1"):
        raise ParameterError(f"rope_position must be 'P' or 'P-1', not {rope_position!r}")
    if not 1 <= prefill_chunk <= 4096:
        raise ParameterError(f"prefill_chunk must be 1 to 4096, not {prefill_chunk}")
    located = locate(model, drafter)
    source = open_model(located.target)
    target_config = source.target_config()
    backend = make_backend(threads)
    open_packed = functools.partial(
        open_weights,
        layouts=backend.layout,
        cache_dir=cache_dir,
        use_cache=use_cache,
        progress=progress,
        on_message=on_message,
    )
    store = open_packed(source, target_config, weights)
    target = compile_target(target_config, store, backend, max_rows=prefill_chunk + MAX_DRAFT)
    drafter_model = None
    if located.drafter is not None:
        drafter_source = open_model(located.drafter)
        assistant = drafter_source.drafter_config()
        drafter_store = open_packed(drafter_source, assistant, weights)
        drafter_model = compile_drafter(assistant, drafter_store, target, rope_position)
        if prefault:
            drafter_store.prefault(progress)
    if prefault:
        store.prefault(progress)
    return Pair(located=located, source=source, target=target, drafter=drafter_model)
