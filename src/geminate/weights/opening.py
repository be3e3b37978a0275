"""Opens weights in a kernel format: mapped from a packed file, from the cache, or packed now and kept there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from geminate.backends import select
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.packed import WAY_OUT, PackedCheckpoint, PackedEntry
from geminate.checkpoint.packed_file import SUFFIX, PackedFile
from geminate.checkpoint.packed_writer import PackedWriter, PartWriter
from geminate.errors import GeminateError, WeightsError
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.system.locks import turn
from geminate.weights import cache
from geminate.weights.cache import CALLED, COSTS, Message
from geminate.weights.packed_header import check_header
from geminate.weights.packing import Layouts, Progress, pack_all, requantized
from geminate.weights.presets import Preset, row_scaled_preset, tensor_format
from geminate.weights.specs import Matched, canonical, expected_tensors, match
from geminate.weights.store import WeightStore
from geminate.weights.verification import find_damage

MADE = "geminate"  # what the header of a file of the cache names as its program


class WeightSource(Protocol):
    """A model's weights on disk; see `geminate.families.base.Model`."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def tensors(self) -> Mapping[str, Entry]: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Weights that are to be packed, and how.

    Attributes:
        entries: by their stored names. preset: `auto` and the like, resolved for these entries.
        formats: layout of the backend that will run them.
    """

    checkpoint: Checkpoint
    entries: Mapping[str, Entry]
    config: TargetConfig | AssistantConfig
    preset: Preset
    layouts: Layouts

    @classmethod
    def of(
        cls, source: WeightSource, config: TargetConfig | AssistantConfig, preset: Preset, layouts: Layouts | None
    ) -> Recipe:
        """The recipe for a source.

        Raises:
            WeightsError, ModelNotFoundError: no weights, or damaged ones. ParameterError: a format they cannot have.
        """
        checkpoint, entries = source.checkpoint, source.tensors
        packed = isinstance(checkpoint, PackedCheckpoint)
        if preset == "auto" and not packed and all(entry.grid is None for entry in entries.values()):
            preset = "int8"  # the same bytes: one file of the cache serves both
        if not isinstance(config, AssistantConfig):
            preset = row_scaled_preset(preset, entries.values(), str(checkpoint.path))
        return cls(checkpoint=checkpoint, entries=entries, config=config, preset=preset,
                   layouts=layouts or select.layout)  # fmt: skip

    @property
    def stored(self) -> Mapping[str, Entry]:
        """The entries by canonical name."""
        return {canonical(name): entry for name, entry in self.entries.items()}

    @property
    def about(self) -> dict[str, Any]:
        """What the header of the packed file says of the whole model."""
        stored, config = self.stored, self.config
        specs = expected_tensors(config)
        formats = [(s.name, tensor_format(s, stored.get(s.name), self.preset, config)) for s in specs]
        clustered = [(s.name, s.clusters) for s in specs if s.clusters > 1]
        shape = hashlib.sha256(repr(sorted(asdict(config).items(), key=str)).encode()).hexdigest()
        # What a preset means may change with the version; a file packed under the old meaning is stale.
        meaning = hashlib.sha256(repr(formats + clustered if clustered else formats).encode()).hexdigest()
        return {
            "weights": self.preset,
            "layout": {fmt: self.layouts(fmt).name for _, fmt in formats},
            "fingerprint": {"files": self.checkpoint.stamps, "config": shape, "meaning": meaning},
        }

    @property
    def is_stored_so(self) -> bool:
        """Whether the source is a packed file that holds just this."""
        if not isinstance(self.checkpoint, PackedCheckpoint) or self.checkpoint.adapters:
            return False
        formats, stored, layouts = self.checkpoint.formats, self.stored, self.checkpoint.layouts
        wanted = {
            spec.name: tensor_format(spec, stored.get(spec.name), self.preset, self.config)
            for spec in expected_tensors(self.config)
            if spec.name in formats
        }
        tiled = {
            fmt for name, fmt in wanted.items() if self.checkpoint.content.tensors[name].get("role") != "row_table"
        }
        return wanted == dict(formats) and all(layouts.get(fmt) == self.layouts(fmt).name for fmt in tiled)

    def matched(self, say: Message, progress: Progress | None) -> Matched:
        """What is to be packed; says what is skipped and what is rounded a second time.

        Raises:
            WeightsError: tensors missing; a packed file that is damaged.
        """
        if isinstance(self.checkpoint, PackedCheckpoint):  # what is damaged must not get a fresh checksum
            if problem := find_damage(self.checkpoint.content.arrays.values(), os.cpu_count() or 1, progress):
                raise WeightsError(f"{problem}; {WAY_OUT}")
        found = match(self.entries, self.config, str(self.checkpoint.path))
        for reason, (count, size) in found.skipped.items():
            say(f"skipped {count} tensors ({size / 1e6:.1f} MB): {reason}")
        if rounded := requantized(found, self.config, self.preset):
            say(rounded)
        return found

    def write(self, into: PartWriter, matched: Matched, progress: Progress | None) -> None:
        """Pack everything into a part of a packed file.

        Raises:
            WeightsError: numbers that cannot be packed. OSError: the disk is full.
        """
        into.about |= {**self.about, "skipped": matched.skipped}
        pack_all(into, matched, self.config, self.preset, self.layouts, progress)


def trained_codes(tensors: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What a user should know of matrices that were packed with the codes of their training, or None."""
    count = sum(bool(info.get("on_grid")) for info in tensors.values())
    if not count:
        return None
    return f"{count} matrices lie on a Q4_0 grid (quantization-aware training): packed with their own codes"


def mapped(recipe: Recipe, packed: PackedFile, part: str, **more: Any) -> WeightStore:
    """The weights in a packed file, checked against the configuration.

    Args:
        more: of `WeightStore`.

    Raises:
        WeightsError: damaged, or not what the configuration asks for.
    """
    packed.probe(part)
    content = packed.parts[part]
    try:
        arrays = {name: array.data for name, array in content.arrays.items()}
        sums = dict(content.arrays)
        stored = recipe.stored
        for name, info in content.tensors.items():
            if not info.get("mapped"):
                continue
            entry = stored[name]
            arrays[name] = entry.map()
            if isinstance(entry, PackedEntry) and isinstance(recipe.checkpoint, PackedCheckpoint):
                sums[name] = recipe.checkpoint.content.arrays[name]
        skipped = content.about["skipped"]
        store = WeightStore(arrays, content.tensors, recipe.layouts, sums=sums, skipped=skipped, **more)
        for spec in expected_tensors(recipe.config):
            check_header(spec, content.tensors[spec.name], arrays, recipe.layouts, packed.called)
            if spec.role == "order":
                store.order(spec.name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, GeminateError):
            raise
        raise WeightsError(f"{packed.called} has a header that makes no sense") from None
    return store


def open_weights(
    source: WeightSource,
    config: TargetConfig | AssistantConfig,
    preset: Preset,
    *,
    layouts: Layouts | None = None,
    cache_dir: Path | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
    on_message: Message | None = None,
) -> WeightStore:
    """Weights of a checkpoint, packed for the kernels.

    A packed file is mapped as it is where it holds what is asked for in the layout of the backend; otherwise it is
    converted once, into the cache.

    Args:
        source: where the weights are. preset: see `presets.tensor_format`.
        layouts: of the backend that will run them; None: of the one that `make_backend` chooses.
        cache_dir: where packed weights are kept; see `cache.cache_directory`.
        progress: called while packing; what it raises ends it, and no file is left.
        on_message: called with what a user should know, once.

    Raises:
        WeightsError, ModelNotFoundError: see their messages. StorageError: no place for what is packed.
        ParameterError: a format these weights cannot have; or the limit of the cache is not a size.
    """
    say = on_message or (lambda text: None)
    recipe = Recipe.of(source, config, preset, layouts)
    folder = cache.cache_directory(cache_dir)
    checkpoint = recipe.checkpoint
    # One file for a model, however it is named: "." and links to it have the same place.
    name = f"{checkpoint.path.resolve().name}-{checkpoint.place}"
    if isinstance(checkpoint, PackedCheckpoint) and recipe.is_stored_so:
        costs = folder / f"{name}{COSTS}" if use_cache else None
        return _as_it_is(recipe, checkpoint, costs)
    if not use_cache:
        return _Packing(recipe, say, progress).nowhere(None)
    cache.cache_limit()
    path = folder / f"{name}-{recipe.preset}{SUFFIX}"
    if (kept := _from_cache(recipe, path, say)) is not None:
        return kept
    told = False

    def waiting() -> None:
        nonlocal told
        if not told:
            say(f"another process packs the weights of {checkpoint.path}; waiting for it")
        told = True
        if progress is not None:
            progress("waiting", 0, 1)

    if isinstance(checkpoint, PackedCheckpoint):
        say(f"{checkpoint.path} was packed for other processors or in another format: converting it once")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with turn(path.with_suffix(".lock"), waiting) as waited:
        if waited and (kept := _from_cache(recipe, path, say)) is not None:
            return kept
        return _Packing(recipe, say, progress).into_cache(path)


def _as_it_is(recipe: Recipe, checkpoint: PackedCheckpoint, costs: Path | None) -> WeightStore:
    try:
        return mapped(recipe, checkpoint.packed, checkpoint.part, path=checkpoint.file, costs=costs, from_cache=True)
    except WeightsError as error:
        raise WeightsError(f"{error}; {WAY_OUT}") from None


def _from_cache(recipe: Recipe, path: Path, say: Message) -> WeightStore | None:
    """What is in the cache; None, and a message, for what cannot be used."""
    if not os.path.lexists(path):
        return None
    try:
        return _opened(recipe, path, from_cache=True)
    except Exception as error:  # whatever a damaged or forged header makes of itself
        known = isinstance(error, WeightsError | OSError)
        say(f"{error if known else 'the packed cache is damaged'}; packing the weights again")
        return None


def _opened(recipe: Recipe, path: Path, *, from_cache: bool) -> WeightStore:
    packed = PackedFile.open(path, called=CALLED, private=True)
    part = next(iter(packed.parts))
    about = packed.parts[part].about
    if any(about.get(key) != value for key, value in recipe.about.items()):
        raise WeightsError(f"{CALLED} is stale")
    cache.touch(path)
    costs = path.with_suffix(COSTS)
    return mapped(recipe, packed, part, path=path, kept=True, costs=costs, from_cache=from_cache)


class _Packing:
    """Packs a recipe, once, or twice where the first place turns out to be full."""

    def __init__(self, recipe: Recipe, say: Message, progress: Progress | None) -> None:
        self.recipe, self.say, self.progress = recipe, say, progress
        self.matched = recipe.matched(say, progress)

    def into_cache(self, path: Path) -> WeightStore:
        """Weights mapped from a new file of the cache; where it cannot be kept, from one without a name."""
        if cache.keep(path, self._write, self.say):
            with contextlib.suppress(OSError, WeightsError):  # gone again: by somebody who heeds no lock
                return self._noted(_opened(self.recipe, path, from_cache=False))
        return self.nowhere(path.parent)

    def nowhere(self, folder: Path | None) -> WeightStore:
        """Weights mapped from a file without a name."""
        packed = cache.keep_nowhere(self._write, folder)
        return self._noted(mapped(self.recipe, packed, next(iter(packed.parts))))

    def _write(self, file: IO[bytes]) -> None:
        writer = PackedWriter(file, MADE)
        name = "drafter" if isinstance(self.recipe.config, AssistantConfig) else "target"
        origin = {"origin": {"path": str(self.recipe.checkpoint.path.resolve())}}
        self.recipe.write(writer.part(name, whole=False, about=origin), self.matched, self.progress)
        writer.finish()

    def _noted(self, store: WeightStore) -> WeightStore:
        if remark := trained_codes(store.tensors):
            self.say(remark)
        return store
