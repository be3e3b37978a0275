"""Open a checkpoint's weights in a kernel format: from the packed cache, or packed now and kept there."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from geminate.arrays import F32, I32, is_permutation
from geminate.backends import select
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.entries import Entry
from geminate.errors import StorageError, WeightsError
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.table import FORMATS, WeightFormat
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.weights import packed_cache as pc
from geminate.weights.packed_header import check_header
from geminate.weights.packing import Layouts, Progress, pack_all, requantized
from geminate.weights.presets import Preset, row_scaled_preset, tensor_format
from geminate.weights.specs import canonical, expected_tensors, match

Message = Callable[[str], None]
PREFAULT_BLOCK = 64 << 20


class WeightStore:
    """Packed weights by canonical name.

    Attributes:
        format: of the matrices that passes stream, ``mixed``, or ``mobile`` with static activations.
        skipped: reason -> (tensors, bytes) passed over knowingly.
        from_cache: whether they were mapped rather than packed now. path: the cache file, or None.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        meta: dict[str, Any],
        layouts: Layouts,
        *,
        path: Path | None,
        from_cache: bool,
    ) -> None:
        self.path = path
        self.from_cache = from_cache
        self.skipped: dict[str, tuple[int, int]] = {
            reason: (count, size) for reason, (count, size) in meta["skipped"].items()
        }
        self._arrays = arrays
        self._layouts = layouts
        self._tensors: dict[str, dict[str, Any]] = meta["tensors"]
        self._crc: dict[str, int] = meta.get("crc", {})
        self._made: dict[str, PackedMatrix] = {}
        streamed = self.bytes_by_format()
        self.format: WeightFormat | Literal["mixed", "mobile"] = next(iter(streamed), "bf16")
        if any(FORMATS[name].row_scaled for name in streamed):
            self.format = "mobile"
        elif len(streamed) > 1:
            self.format = "mixed"

    def replaced(self, names: Collection[str], other: WeightStore) -> WeightStore:
        """These weights with the tensors ``names`` taken from ``other``; nothing is copied."""
        tensors = {n: (other if n in names else self)._info(n) for n in self._tensors}
        arrays = {a: v for a, v in self._arrays.items() if a.split("#")[0] not in names}
        arrays |= {a: v for a, v in other._arrays.items() if a.split("#")[0] in names}
        meta = {"tensors": tensors, "skipped": {}}
        return WeightStore(arrays, meta, self._layouts, path=None, from_cache=self.from_cache)

    def _info(self, name: str) -> dict[str, Any]:
        if name not in self._tensors:
            raise WeightsError(f"no tensor {name} in these weights")
        return self._tensors[name]

    @property
    def contents(self) -> list[tuple[str, int, str]]:
        """(name, CRC-32, format and activation scales) of every packed array."""
        formats = {
            name: " ".join(str(info[key]) for key in ("format", "input_scale", "output_scale") if key in info)
            for name, info in self._tensors.items()
        }
        return [(name, crc, formats.get(name.split("#")[0], "")) for name, crc in sorted(self._crc.items())]

    @property
    def unchecked(self) -> bool:
        """Whether some tensors have no checksum, because they stay in the checkpoint."""
        return any(name not in self._crc for name in self._arrays)

    def matrix(self, name: str) -> PackedMatrix:
        """A packed matrix, or a stack of them (experts); the same object every time."""
        if name not in self._made:
            info = self._info(name)
            self._made[name] = PackedMatrix(
                format=info["format"],
                n=info["n"],
                k=info["k"],
                planes=self._planes(name),
                layout=self._layouts(info["format"]),
                stack=info["stack"],
                input_scale=info.get("input_scale", 0.0),
                output_scale=info.get("output_scale", 0.0),
            )
        return self._made[name]

    def _planes(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a tensor by plane; of a vector, ``codes`` alone."""
        kept, info = {"codes": self._arrays[name]}, self._info(name)
        row = FORMATS[info.get("format", "bf16")]
        if info["role"] == "row_table" and row.blocks is not None:
            return kept  # scales stand in the blocks
        for plane in row.planes[1:]:
            kept[plane] = self._arrays[f"{name}#{plane}"]
        return kept

    def embedding(self) -> PackedMatrix | RowTable:
        """The token embedding; the head too, unless it is a table of its own."""
        if self._info("embed_tokens")["role"] == "row_table":
            return self.row_table("embed_tokens")
        return self.matrix("embed_tokens")

    def head(self) -> PackedMatrix:
        """The matrix that makes logits: the embedding, unless the two are stored apart."""
        return self.matrix("lm_head" if "lm_head" in self._tensors else "embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """A table that is read row by row."""
        info = self._info(name)
        return RowTable(
            format=info["format"],
            rows=info["n"],
            width=info["k"],
            planes=self._planes(name),
        )

    def vector(self, name: str) -> F32:
        """A float32 vector."""
        self._info(name)
        return np.array(self._arrays[name], dtype=np.float32)

    def scalar(self, name: str) -> float:
        """A single number."""
        return float(self.vector(name).reshape(-1)[0])

    def order(self, name: str) -> I32:
        """The token order of the centroid head, int32 [vocab].

        Raises:
            WeightsError: not a permutation of the token ids; the kernels use them as addresses.
        """
        vocab = self._info("embed_tokens")["n"]
        found = np.array(self._arrays[name], dtype=np.int32)
        if not is_permutation(found, vocab):
            raise WeightsError(f"{name} is not a permutation of the {vocab} token ids")
        return found

    def check(self) -> None:
        """Read all packed weights and compare them with their checksums.

        Raises:
            WeightsError: damage; the file is removed, so that the next start packs the weights again.
        """
        name = pc.damaged(self._arrays, self._crc)
        if name is None:
            return
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        raise WeightsError(
            f"the packed weights are damaged in {name}; start again to pack them anew from the checkpoint"
        )

    def prefault(self, progress: Progress | None = None) -> int:
        """Touch every page that passes stream, in order, so that no pass waits for the disk; bytes touched.

        Tables that are read row by row are left alone. The system may still drop pages when memory is short.
        """
        names = [n for n, info in self._tensors.items() if info["role"] != "row_table"]
        arrays = [array for name in names for array in self._planes(name).values()]
        total, done = sum(a.nbytes for a in arrays), 0
        for array in arrays:
            flat = array.reshape(-1).view(np.uint8)
            for start in range(0, len(flat), PREFAULT_BLOCK):
                flat[start : start + PREFAULT_BLOCK : mmap.PAGESIZE].max()
                done += min(PREFAULT_BLOCK, len(flat) - start)
                if progress is not None:
                    progress("touching", done, total)
        return total

    def bytes_by_format(self) -> dict[WeightFormat, int]:
        """Packed bytes per format of the matrices that passes stream; routers and centroids, always bf16, left out."""
        formats: dict[WeightFormat, int] = {}
        for name, info in self._tensors.items():
            if info["role"] in ("matrix", "embedding", "experts"):
                formats[info["format"]] = formats.get(info["format"], 0) + self.tensor_bytes(name)
        return formats

    def tensor_bytes(self, name: str) -> int:
        """Packed bytes of one tensor, scales included."""
        self._info(name)
        return sum(array.nbytes for array in self._planes(name).values())

    def bytes_by_kind(self) -> dict[str, int]:
        """Packed bytes per kind of tensor: matrix, embedding, experts, row_table, vector, ..."""
        kinds: dict[str, int] = {}
        for name, info in self._tensors.items():
            kinds[info["role"]] = kinds.get(info["role"], 0) + self.tensor_bytes(name)
        return kinds

    def parameters_by_kind(self) -> dict[str, int]:
        """Parameters per kind of tensor."""
        kinds: dict[str, int] = {}
        for info in self._tensors.values():
            kinds[info["role"]] = kinds.get(info["role"], 0) + info["parameters"]
        return kinds


class WeightSource(Protocol):
    """A model's weights on disk; see `geminate.families.base.Model`."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def tensors(self) -> Mapping[str, Entry]: ...


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

    Args:
        source: where the weights are. preset: see `presets.tensor_format`.
        layouts: of the backend that will run them; None: of the one that `make_backend` chooses.
        cache_dir: where packed weights are kept; see `packed_cache.cache_directory`.
        progress: called while packing; what it raises ends it, and no file is left.
        on_message: called with what a user should know, once.

    Raises:
        WeightsError, ModelNotFoundError: see their messages. StorageError: no place for what is packed.
    """
    say = on_message or (lambda text: None)
    layouts = layouts or select.layout
    checkpoint, entries = source.checkpoint, source.tensors
    if preset == "auto" and all(entry.grid is None for entry in entries.values()):
        preset = "int8"  # the same bytes: one cache file serves both
    if not isinstance(config, AssistantConfig):
        preset = row_scaled_preset(preset, entries.values(), str(checkpoint.path))
    fingerprint = _fingerprint(checkpoint, config, preset, entries, layouts)
    folder = pc.cache_directory(cache_dir)
    # One file for a model, however it is named: "." and links to it have the same place.
    path = folder / f"{checkpoint.path.resolve().name}-{checkpoint.place}-{preset}.geminate"
    if use_cache and path.exists():
        try:
            return _from_cache(path, fingerprint, entries, config, layouts)
        except Exception as error:  # whatever a damaged or forged header makes of itself
            known = isinstance(error, WeightsError | OSError)
            say(f"{error if known else 'the packed cache is damaged'}; packing the weights again")
    matched = match(entries, config, str(checkpoint.path))
    for reason, (count, size) in matched.skipped.items():
        say(f"skipped {count} tensors ({size / 1e6:.1f} MB): {reason}")
    if rounded := requantized(matched, config, preset):
        say(rounded)

    def write(file: IO[bytes]) -> None:
        pack_all(file, fingerprint, matched, config, preset, layouts, progress)

    kept = _packed_at(path, write, say) if use_cache else None
    with kept or _packed_nowhere(write, folder if use_cache else None) as file:
        arrays, meta = pc.open_cache(file, fingerprint)
    if on_grid := sum(bool(info.get("on_grid")) for info in meta["tensors"].values()):
        say(f"{on_grid} matrices lie on a Q4_0 grid (quantization-aware training): packed with their own codes")
    _map_sources(arrays, meta, matched.tensors)
    return WeightStore(arrays, meta, layouts, path=None if kept is None else path, from_cache=False)


def _from_cache(
    path: Path,
    fingerprint: dict[str, Any],
    entries: Mapping[str, Entry],
    config: TargetConfig | AssistantConfig,
    layouts: Layouts,
) -> WeightStore:
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is no regular file")
    with path.open("rb") as file:
        arrays, meta = pc.open_cache(file, fingerprint)
    _map_sources(arrays, meta, {canonical(name): entry for name, entry in entries.items()})
    store = WeightStore(arrays, meta, layouts, path=path, from_cache=True)
    for spec in expected_tensors(config):  # checked now, while the weights can still be packed again
        check_header(spec, meta["tensors"][spec.name], arrays, layouts)
        if spec.role == "order":
            store.order(spec.name)
    return store


def _packed_at(path: Path, write: Callable[[IO[bytes]], None], say: Message) -> IO[bytes] | None:
    """Write the packed file in one piece; None, and a message, where it cannot be kept."""
    temporary: Path | None = None
    try:
        file = pc.new_file(path.parent)
        temporary = Path(file.name)
        try:
            write(file)
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            file.close()
            raise
        return file
    except OSError as error:  # not writable, or a full disk
        say(f"cannot keep packed weights in {path.parent} ({error.strerror}); running without the cache")
        return None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _packed_nowhere(write: Callable[[IO[bytes]], None], cache: Path | None) -> IO[bytes]:
    """Write the packed weights to a file without a name, which lives as long as this process.

    Args:
        cache: the directory in which they could not be kept; None: they were not to be kept.

    Raises:
        StorageError: no space there either.
    """
    file = pc.anonymous_file()
    try:
        write(file)
    except OSError as error:
        file.close()
        where = tempfile.gettempdir()
        way = f"free some space in {where}, or set TMPDIR to a directory on a disk that has some"
        if cache is not None:
            way = f"free some space in {cache}, or set GEMINATE_CACHE to a directory on a disk that has some"
        raise StorageError(
            f"cannot write the packed weights to a temporary file in {where}: {error.strerror}; {way}"
        ) from None
    except BaseException:
        file.close()
        raise
    return file


def _map_sources(arrays: dict[str, np.ndarray], meta: dict[str, Any], tensors: Mapping[str, Entry]) -> None:
    """Add the tensors that need no packing, mapped from the checkpoint itself."""
    for name, info in meta["tensors"].items():
        if info.get("mapped"):
            arrays[name] = tensors[name].map()


def _fingerprint(
    checkpoint: Checkpoint,
    config: TargetConfig | AssistantConfig,
    preset: Preset,
    entries: Mapping[str, Entry],
    layouts: Layouts,
) -> dict[str, Any]:
    shape = hashlib.sha256(repr(sorted(asdict(config).items(), key=str)).encode()).hexdigest()
    stored = {canonical(name): entry for name, entry in entries.items()}
    # What a preset means may change with the version; a file packed under the old meaning is stale.
    formats = [(s.name, tensor_format(s, stored.get(s.name), preset, config)) for s in expected_tensors(config)]
    meaning = hashlib.sha256(repr(formats).encode()).hexdigest()
    arranged = {fmt: layouts(fmt).name for _, fmt in formats}
    return {"files": checkpoint.stamps, "config": shape, "format": preset, "meaning": meaning, "layout": arranged}
