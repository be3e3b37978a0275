"""Open a checkpoint's weights in a kernel format: from the packed cache, or packed now and kept there."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from geminate.config import AssistantConfig, TargetConfig
from geminate.errors import WeightsError
from geminate.ops.packed import GROUP, TILE_ROWS, PackedMatrix, RowTable, WeightFormat, padded
from geminate.ops.unpack import bf16_to_f32
from geminate.types import F32, I32
from geminate.weights import packed_cache as pc
from geminate.weights.names import Matched, TensorSpec, canonical, expected_tensors, match
from geminate.weights.quantize import f32_to_bf16, pack_block, pack_rows_int8
from geminate.weights.safetensors_reader import TensorEntry, checkpoint_files, read_checkpoint

Progress = Callable[[str, int, int], None]  # tensor name, bytes done, bytes in all
Message = Callable[[str], None]
BLOCK_BYTES = 4 << 20  # float32 rows of one packing step; temporaries are several times that
PREFAULT_BLOCK = 64 << 20


class WeightStore:
    """Packed weights by canonical name.

    Attributes:
        format: of the matrices. skipped: reason -> (tensors, bytes) passed over knowingly.
        from_cache: whether they were mapped rather than packed now. path: the cache file, or None.
    """

    def __init__(
        self,
        fmt: WeightFormat,
        arrays: dict[str, np.ndarray],
        meta: dict[str, Any],
        *,
        path: Path | None,
        from_cache: bool,
    ) -> None:
        self.format: WeightFormat = fmt
        self.path = path
        self.from_cache = from_cache
        self.skipped: dict[str, tuple[int, int]] = {
            reason: (count, size) for reason, (count, size) in meta["skipped"].items()
        }
        self._arrays = arrays
        self._tensors: dict[str, dict[str, Any]] = meta["tensors"]
        self._made: dict[str, PackedMatrix] = {}

    def _info(self, name: str) -> dict[str, Any]:
        if name not in self._tensors:
            raise WeightsError(f"no tensor {name} in these weights")
        return self._tensors[name]

    def matrix(self, name: str) -> PackedMatrix:
        """A packed matrix, or a stack of them (experts); the same object every time."""
        if name not in self._made:
            info = self._info(name)
            self._made[name] = PackedMatrix(
                format=info["format"],
                n=info["n"],
                k=info["k"],
                data=self._arrays[name],
                scales=self._arrays.get(f"{name}#scales"),
                stack=info["stack"],
            )
        return self._made[name]

    def embedding(self) -> PackedMatrix:
        """The token embedding, which is the head too."""
        return self.matrix("embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """A table that is read row by row."""
        info = self._info(name)
        return RowTable(
            format=info["format"],
            rows=info["n"],
            width=info["k"],
            data=self._arrays[name],
            scales=self._arrays.get(f"{name}#scales"),
        )

    def vector(self, name: str) -> F32:
        """A float32 vector."""
        self._info(name)
        return np.array(self._arrays[name], dtype=np.float32)

    def scalar(self, name: str) -> float:
        """A single number."""
        return float(self.vector(name).reshape(-1)[0])

    def order(self, name: str) -> I32:
        """The token order of the centroid head, int32 [vocab]."""
        self._info(name)
        return np.array(self._arrays[name], dtype=np.int32)

    def prefault(self, progress: Progress | None = None) -> int:
        """Touch every page that passes stream, in order, so that no pass waits for the disk; bytes touched.

        Tables that are read row by row are left alone. The system may still drop pages when memory is short.
        """
        names = [n for n, info in self._tensors.items() if info["role"] != "row_table"]
        arrays = [self._arrays[a] for n in names for a in (n, f"{n}#scales") if a in self._arrays]
        total, done = sum(a.nbytes for a in arrays), 0
        for array in arrays:
            flat = array.reshape(-1).view(np.uint8)
            for start in range(0, len(flat), PREFAULT_BLOCK):
                flat[start : start + PREFAULT_BLOCK : mmap.PAGESIZE].max()
                done += min(PREFAULT_BLOCK, len(flat) - start)
                if progress is not None:
                    progress("touching", done, total)
        return total

    def bytes_by_kind(self) -> dict[str, int]:
        """Packed bytes per kind of tensor: matrix, embedding, experts, row_table, vector, ..."""
        kinds: dict[str, int] = {}
        for name, info in self._tensors.items():
            size = self._arrays[name].nbytes
            if f"{name}#scales" in self._arrays:
                size += self._arrays[f"{name}#scales"].nbytes
            kinds[info["role"]] = kinds.get(info["role"], 0) + size
        return kinds

    def parameters_by_kind(self) -> dict[str, int]:
        """Parameters per kind of tensor."""
        kinds: dict[str, int] = {}
        for info in self._tensors.values():
            kinds[info["role"]] = kinds.get(info["role"], 0) + info["parameters"]
        return kinds


def open_weights(
    directory: Path,
    config: TargetConfig | AssistantConfig,
    fmt: WeightFormat,
    *,
    cache_dir: Path | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
    on_message: Message | None = None,
) -> WeightStore:
    """Weights of the checkpoint in ``directory``, in format ``fmt`` (the drafter never below int8).

    Args:
        cache_dir: where packed weights are kept; see `packed_cache.cache_directory`.
        progress: told about every packed tensor. on_message: told what a user should know, once.

    Raises:
        WeightsError, ModelNotFoundError: see their messages.
    """
    say = on_message or (lambda text: None)
    if isinstance(config, AssistantConfig) and fmt == "int4":
        fmt = "int8"
    fingerprint = _fingerprint(directory, config, fmt)
    folder = pc.cache_directory(cache_dir)
    place = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:8]
    path = folder / f"{directory.name}-{place}-{fmt}.geminate"
    if use_cache and path.exists():
        try:
            with path.open("rb") as kept_file:
                arrays, meta = pc.open_cache(kept_file, fingerprint)
            if any(info.get("mapped") for info in meta["tensors"].values()):
                _map_sources(arrays, meta, {canonical(n): e for n, e in read_checkpoint(directory).items()})
            return WeightStore(fmt, arrays, meta, path=path, from_cache=True)
        except (WeightsError, OSError, ValueError, KeyError) as error:
            say(f"{error}; packing the weights again")
    matched = match(read_checkpoint(directory), config, str(directory))
    for reason, (count, size) in matched.skipped.items():
        say(f"skipped {count} tensors ({size / 1e6:.1f} MB): {reason}")
    named: Path | None = None
    kept: Path | None = None
    if use_cache:
        try:
            file = pc.new_file(folder)
            named = Path(file.name)
        except OSError as error:
            say(f"cannot keep packed weights in {folder} ({error.strerror}); running without the cache")
            file = pc.anonymous_file()
    else:
        file = pc.anonymous_file()
    try:
        try:
            _pack_all(file, fingerprint, matched, config, fmt, progress)
            if named is not None:
                os.fsync(file.fileno())
                os.replace(named, path)
                kept = path
        except OSError as error:  # a full disk, most likely
            if named is None:
                raise WeightsError(f"cannot write packed weights: {error.strerror}") from None
            say(f"cannot keep packed weights in {folder} ({error.strerror}); running without the cache")
            file.close()
            named.unlink(missing_ok=True)
            named = None
            file = pc.anonymous_file()
            try:
                _pack_all(file, fingerprint, matched, config, fmt, progress)
            except OSError as again:
                raise WeightsError(
                    f"cannot write packed weights anywhere: {again.strerror}; "
                    "free some disk space or point GEMINATE_CACHE to a disk that has some"
                ) from None
        arrays, meta = pc.open_cache(file, fingerprint)
    finally:
        file.close()
        if named is not None and kept is None:
            named.unlink(missing_ok=True)
    _map_sources(arrays, meta, matched.tensors)
    return WeightStore(fmt, arrays, meta, path=kept, from_cache=False)


def _map_sources(arrays: dict[str, np.ndarray], meta: dict[str, Any], tensors: Mapping[str, TensorEntry]) -> None:
    """Add the tensors that need no packing, mapped from the checkpoint itself."""
    for name, info in meta["tensors"].items():
        if info.get("mapped"):
            arrays[name] = tensors[name].map()


def _fingerprint(directory: Path, config: TargetConfig | AssistantConfig, fmt: WeightFormat) -> dict[str, Any]:
    files = []
    for path in checkpoint_files(directory):
        stat = path.stat()
        files.append([path.name, stat.st_size, stat.st_mtime_ns])
    shape = hashlib.sha256(repr(sorted(asdict(config).items(), key=str)).encode()).hexdigest()
    return {"files": files, "config": shape, "format": fmt, "layout": pc.VERSION}


def _pack_all(
    file: IO[bytes],
    fingerprint: dict[str, Any],
    matched: Matched,
    config: TargetConfig | AssistantConfig,
    fmt: WeightFormat,
    progress: Progress | None,
) -> None:
    writer = pc.CacheWriter(file, fingerprint)
    total = sum(entry.nbytes for entry in matched.tensors.values())
    done = 0
    tensors: dict[str, dict[str, Any]] = {}
    for spec in expected_tensors(config):
        entry = matched.tensors[spec.name]
        tensors[spec.name] = _pack_one(writer, spec, entry, fmt)
        done += entry.nbytes
        if progress is not None:
            progress(spec.name, done, total)
    writer.meta = {"tensors": tensors, "skipped": matched.skipped}
    writer.finish()


def _row_blocks(entry: TensorEntry, rows: int, width: int) -> Iterator[F32]:
    step = max(TILE_ROWS, BLOCK_BYTES // (4 * width) // TILE_ROWS * TILE_ROWS)
    for start in range(0, rows, step):
        yield entry.rows(start, min(start + step, rows))


def _pack_one(writer: pc.CacheWriter, spec: TensorSpec, entry: TensorEntry, fmt: WeightFormat) -> dict[str, Any]:
    info: dict[str, Any] = {"role": spec.role, "parameters": int(np.prod(spec.shape))}
    if spec.role in ("vector", "scalar"):
        value = entry.rows(0, spec.shape[0]) if entry.shape else _number(entry)
        if not np.isfinite(value).all():
            raise WeightsError(f"{entry.name} holds numbers that are not finite; download the checkpoint again")
        value = value.astype(np.float32)
        if spec.unit_offset and not entry.whole_norm:
            value = value + np.float32(1)  # in float32, as the model code does
        writer.add(spec.name, "<f4", spec.shape, [value])
        return info
    if spec.role == "order":
        writer.add(spec.name, "<i4", spec.shape, [_checked_order(entry, spec.shape[0])])
        return info
    n, k = spec.shape[-2:]
    stack = spec.shape[0] if spec.role == "experts" else 1
    info |= {"n": n, "k": k, "stack": stack}
    if spec.role == "row_table":
        info["format"] = "bf16" if fmt == "bf16" else "int8"
        # The largest tensor, already row-major bfloat16: read in place, never copied to the cache or to memory.
        if fmt == "bf16" and entry.dtype == "BF16" and entry.offset % 2 == 0:
            return info | {"mapped": True}
        _pack_row_table(writer, spec, entry, info["format"] == "bf16")
        return info
    info["format"] = "bf16" if spec.role == "keep" else fmt
    _pack_matrix(writer, spec.name, entry, info)
    return info


def _number(entry: TensorEntry) -> F32:
    bits = entry.map().reshape(1)
    return bf16_to_f32(bits) if entry.dtype == "BF16" else bits.astype(np.float32)


def _checked_order(entry: TensorEntry, vocab: int) -> I32:
    order = entry.map()
    if not np.array_equal(np.sort(order), np.arange(vocab)):
        raise WeightsError(f"{entry.name} is not a permutation of the {vocab} token ids")
    return order.astype(np.int32)


def _pack_row_table(writer: pc.CacheWriter, spec: TensorSpec, entry: TensorEntry, bf16: bool) -> None:
    rows, width = spec.shape
    if bf16:
        blocks = (f32_to_bf16(block) for block in _row_blocks(entry, rows, width))
        writer.add(spec.name, "<u2", spec.shape, blocks)
        return
    wide = padded(width, GROUP)
    scales: list[np.ndarray] = []

    def codes() -> Iterator[np.ndarray]:
        for block in _row_blocks(entry, rows, width):
            packed, scale = pack_rows_int8(block)
            scales.append(scale)
            yield packed

    writer.add(spec.name, "|i1", (rows, wide), codes())
    writer.add(f"{spec.name}#scales", "<u2", (rows, wide // GROUP), scales)


def _pack_matrix(writer: pc.CacheWriter, name: str, entry: TensorEntry, info: dict[str, Any]) -> None:
    n, k, stack, fmt = info["n"], info["k"], info["stack"], info["format"]
    tiles, groups = padded(n, TILE_ROWS) // TILE_ROWS, padded(k, GROUP) // GROUP
    scales: list[np.ndarray] = []

    def blocks() -> Iterator[np.ndarray]:
        for which in range(stack):
            if stack == 1:
                parts = _row_blocks(entry, n, k)
            else:
                parts = iter([entry.rows(which, which + 1)[0]])
            for part in parts:
                data, scale = pack_block(part, fmt)
                if scale is not None:
                    scales.append(scale)
                yield data

    if fmt == "bf16":
        writer.add(name, "<u2", (stack, tiles, groups * GROUP, TILE_ROWS), blocks())
        return
    chunks = 8 if fmt == "int8" else 4
    writer.add(name, "|u1", (stack, tiles, groups, chunks, TILE_ROWS, 4), blocks())
    writer.add(f"{name}#scales", "<u2", (stack, tiles, groups, TILE_ROWS), scales)
