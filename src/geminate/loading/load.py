"""From names to a compiled pair: the one place where configs, weights, drafter and backend meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from geminate.backends.base import Backend
from geminate.backends.select import make_backend
from geminate.checkpoint.adapter import adapter_note, read_adapters
from geminate.checkpoint.packed import PackedCheckpoint
from geminate.errors import ConfigError, WeightsError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.compile import compile_drafter, compile_target
from geminate.loading.drafters import DrafterChoice, check_drafter, drafter_errors, find_drafter
from geminate.loading.locate import EMBEDDED, embedded_pair, locate_model
from geminate.loading.options import LoadOptions
from geminate.params import MAX_DRAFT
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.weights.cache import Message, cache_directory
from geminate.weights.opening import open_weights
from geminate.weights.packing import Progress
from geminate.weights.store import WeightStore
from geminate.weights.verification import note_verified, was_verified


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a pair stands.

    Attributes:
        target: the target's directory or GGUF file. drafter: the drafter's, or None.
        drafter_note: one line for users: which drafter it is, or why there is none and what to do.
        drafter_where: how it was found, in a few words.
    """

    target: Path
    drafter: Path | None
    drafter_note: str = ""
    drafter_where: str = ""


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
        found = DrafterChoice(path=own, note="drafter: the embedded pair's own", where="in this package")
    else:
        found = find_drafter(model or "", target, None if own is not None else drafter)
    return Located(target=target, drafter=found.path, drafter_note=found.note, drafter_where=found.where)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A compiled target and its drafter, with where they came from; ``source`` is None for random weights."""

    located: Located
    source: Model | None
    target: TargetModel
    drafter: DrafterModel | None


@dataclass(frozen=True, kw_only=True)
class _Opener:
    """Opens the weights of a pair by the same options."""

    options: LoadOptions
    backend: Backend
    on_message: Message | None
    progress: Progress | None

    def open(self, source: Model, config: TargetConfig | AssistantConfig) -> WeightStore:
        """The weights, verified as the options say; what is damaged in the cache is packed again.

        Raises:
            WeightsError: damage in a packed file that the user named. GeminateError: see `open_weights`.
        """
        store = self._open(source, config)
        wanted, checkpoint = self.options.verify_weights, source.checkpoint
        folder = cache_directory(self._folder)
        first = wanted is None and isinstance(checkpoint, PackedCheckpoint) and not store.kept
        if first:
            first = not was_verified(folder, checkpoint.path, checkpoint.stamps)
        if not (wanted or first):
            return store
        try:
            store.check(tables=first, threads=self.backend.threads, progress=self.progress)
        except WeightsError as error:
            if not store.kept:
                raise
            if self.on_message is not None:
                self.on_message(f"{error}; packing the weights again")
            return self._open(source, config)
        if first and self.options.use_cache:
            note_verified(folder, checkpoint.path, checkpoint.stamps)
        return store

    def _open(self, source: Model, config: TargetConfig | AssistantConfig) -> WeightStore:
        return open_weights(
            source,
            config,
            self.options.weights,
            layouts=self.backend.layout,
            cache_dir=self._folder,
            use_cache=self.options.use_cache,
            progress=self.progress,
            on_message=self.on_message,
        )

    @property
    def _folder(self) -> Path | None:
        return None if self.options.cache_dir is None else Path(self.options.cache_dir)


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
    opener = _Opener(options=options, backend=backend, on_message=on_message, progress=progress)
    if on_message is not None:
        for adapter in source.checkpoint.adapters:
            on_message(adapter_note(adapter))
    store = opener.open(source, target_config)
    rows = options.prefill_chunk + MAX_DRAFT
    target = compile_target(target_config, store, backend, max_rows=rows, kv=options.kv)
    if options.max_context is not None:
        target.config = _bounded(target.config, options.max_context, on_message)
    if options.verify_weights:
        target.on_ids = store.row_check()
    drafter_model = None
    if drafter_source is not None:
        assistant = drafter_source.drafter_config()
        with drafter_errors(located.drafter):
            drafter_store = opener.open(drafter_source, assistant)
            drafter_model = compile_drafter(assistant, drafter_store, target, options.rope_position)
        if options.prefault:
            drafter_store.prefault(progress)
    if options.prefault:
        store.prefault(progress)
    if on_message is not None:
        on_message(located.drafter_note)
    return Pair(located=located, source=source, target=target, drafter=drafter_model)
