"""From names to a compiled pair: the one place where configs, weights, drafter and backend meet."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geminate.backends.select import make_backend
from geminate.checkpoint.adapter import adapter_note, read_adapters
from geminate.errors import ConfigError, WeightsError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.compile import compile_drafter, compile_target
from geminate.loading.drafters import DrafterChoice, check_drafter, drafter_errors, find_drafter
from geminate.loading.locate import EMBEDDED, embedded_pair, locate_model
from geminate.loading.options import LoadOptions
from geminate.params import MAX_DRAFT
from geminate.plan.config import TargetConfig
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.weights.packing import Progress
from geminate.weights.store import Message, WeightStore, open_weights


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a pair stands.

    Attributes:
        target: the target's directory or GGUF file. drafter: the drafter's, or None.
        drafter_note: one line for users: which drafter it is, or why there is none and what to do.
    """

    target: Path
    drafter: Path | None
    drafter_note: str = ""


def locate(model: str | Path | None, drafter: str | Path | None) -> Located:
    """Find target and drafter; no model, or ``embedded``, is the embedded pair, and the drafter ``embedded`` its own.

    Raises:
        ModelNotFoundError, ConfigError: see their messages.
    """
    model = None if model == EMBEDDED else model
    own = embedded_pair()[1] if drafter == EMBEDDED or (model is None and drafter == "auto") else None
    if model is None:
        target = embedded_pair()[0]
    else:
        target = locate_model(model)
        if open_model(target).is_drafter:
            raise ConfigError(f"{model} is a drafter; name its target, and this one with --drafter")
    if own is not None and (own / "config.json").exists():
        found = DrafterChoice(path=own, note="drafter: the embedded pair's own")
    else:
        found = find_drafter(model or "", target, None if own is not None else drafter)
    return Located(target=target, drafter=found.path, drafter_note=found.note)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A compiled target and its drafter, with where they came from; ``source`` is None for random weights."""

    located: Located
    source: Model | None
    target: TargetModel
    drafter: DrafterModel | None


def _open_checked(*args: Any, on_message: Message | None, **more: Any) -> WeightStore:
    """`open_weights`, and again if what was packed is damaged."""
    store = open_weights(*args, on_message=on_message, **more)
    try:
        store.check()
    except WeightsError as error:  # the packed file is gone
        if on_message is not None:
            on_message(f"{error}; packing the weights again")
        store = open_weights(*args, on_message=on_message, **more)
    return store


def _bounded(config: TargetConfig, limit: int, on_message: Message | None) -> TargetConfig:
    """The configuration with a smaller context."""
    own = config.max_position_embeddings
    if limit > own and on_message is not None:
        on_message(f"max_context {limit:,} is more than the model's {own:,} tokens, which remain the limit")
    return replace(config, max_position_embeddings=min(limit, own))


def load_pair(options: LoadOptions, *, on_message: Message | None = None, progress: Progress | None = None) -> Pair:
    """Load and compile.

    Args:
        on_message: called with what a user should know.
        progress: called with (tensor, bytes done, bytes) while weights are packed; what it raises ends the loading.

    Raises:
        GeminateError: with the cause and the way out.
    """
    located = locate(options.model, options.drafter)
    source = open_model(located.target, read_adapters(options.adapters))
    target_config = source.target_config()
    drafter_source = None
    if located.drafter is not None:
        with drafter_errors(located.drafter):
            drafter_source = open_model(located.drafter)
            check_drafter(target_config, drafter_source)  # before packing, which may take minutes
    backend = make_backend(options.threads)
    open_packed = functools.partial(
        _open_checked if options.check else open_weights,
        layouts=backend.layout,
        cache_dir=None if options.cache_dir is None else Path(options.cache_dir),
        use_cache=options.use_cache,
        progress=progress,
        on_message=on_message,
    )
    if on_message is not None:
        for adapter in source.checkpoint.adapters:
            on_message(adapter_note(adapter))
    store = open_packed(source, target_config, options.weights)
    rows = options.prefill_chunk + MAX_DRAFT
    target = compile_target(target_config, store, backend, max_rows=rows, kv=options.kv)
    if options.max_context is not None:
        target.config = _bounded(target.config, options.max_context, on_message)
    drafter_model = None
    if drafter_source is not None:
        assistant = drafter_source.drafter_config()
        with drafter_errors(located.drafter):
            drafter_store = open_packed(drafter_source, assistant, options.weights)
            drafter_model = compile_drafter(assistant, drafter_store, target, options.rope_position)
        if options.prefault:
            drafter_store.prefault(progress)
    if options.prefault:
        store.prefault(progress)
    if on_message is not None:
        on_message(located.drafter_note)
    return Pair(located=located, source=source, target=target, drafter=drafter_model)
