"""Every tensor of a model into the kernel layouts, a block of rows at a time, through a cache writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from geminate.arrays import F32, I32
from geminate.checkpoint.entries import Entry
from geminate.errors import WeightsError
from geminate.formats.packed import GROUP, TILE_ROWS, WeightFormat, padded
from geminate.formats.quantize import f32_to_bf16, pack_block, pack_codes, pack_rows_int8
from geminate.formats.unpack import bf16_to_f32
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.weights import packed_cache as pc
from geminate.weights.presets import Preset, tensor_format
from geminate.weights.scale_search import recovered, trained_for_int4
from geminate.weights.specs import BLOCKS, Matched, TensorSpec, expected_tensors

Progress = Callable[[str, int, int], None]  # tensor name, bytes done, bytes in all
BLOCK_BYTES = 4 << 20  # float32 rows of one packing step; temporaries are several times that


def requantized(matched: Matched, config: TargetConfig | AssistantConfig, preset: Preset) -> str | None:
    """What a user should know of weights that were quantized once and are rounded to another grid here, or None."""
    kinds: dict[str, int] = {}
    for spec in expected_tensors(config):
        entry = matched.tensors[spec.name]
        if entry.dtype not in BLOCKS:
            continue
        to = tensor_format(spec, entry, preset, config)
        if not passes_through(entry, to):
            what = f"{entry.dtype} as {to}" + (" (the head)" if spec.role == "embedding" else "")
            kinds[what] = kinds.get(what, 0) + 1
    if not kinds:
        return None
    return "requantized: " + ", ".join(f"{count} tensors {what}" for what, count in sorted(kinds.items()))


def passes_through(entry: Entry, fmt: WeightFormat) -> bool:
    """Whether stored codes can be taken as they are: the int4 grid is part of the int8 grid."""
    return entry.grid == fmt or (entry.grid == "int4" and fmt == "int8")


def pack_all(
    file: IO[bytes],
    fingerprint: dict[str, Any],
    matched: Matched,
    config: TargetConfig | AssistantConfig,
    preset: Preset,
    progress: Progress | None,
) -> None:
    """Pack every expected tensor into ``file``; what needs no packing is only noted."""
    writer = pc.CacheWriter(file, fingerprint)
    total = sum(entry.nbytes for entry in matched.tensors.values())
    done = 0
    tensors: dict[str, dict[str, Any]] = {}
    for spec in expected_tensors(config):
        entry = matched.tensors[spec.name]
        fmt = tensor_format(spec, entry, preset, config)
        tensors[spec.name] = _pack_one(writer, spec, entry, fmt)
        done += entry.nbytes
        if progress is not None:
            progress(spec.name, done, total)
    writer.meta = {"tensors": tensors, "skipped": matched.skipped}
    writer.finish()


def _steps(rows: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(TILE_ROWS, BLOCK_BYTES // (4 * width) // TILE_ROWS * TILE_ROWS)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _row_blocks(entry: Entry, rows: int, width: int) -> Iterator[F32]:
    for start, stop in _steps(rows, width):
        yield entry.rows(start, stop)


def _pack_one(writer: pc.CacheWriter, spec: TensorSpec, entry: Entry, fmt: WeightFormat) -> dict[str, Any]:
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
        info["format"] = fmt
        # The largest tensor, already row-major bfloat16: read in place, never copied to the cache or to memory.
        if fmt == "bf16" and entry.dtype == "BF16" and entry.offset % 2 == 0:
            return info | {"mapped": True}
        _pack_row_table(writer, spec, entry, info["format"] == "bf16")
        return info
    info["format"] = fmt
    _pack_matrix(writer, spec.name, entry, info)
    return info


def _number(entry: Entry) -> F32:
    bits = entry.map().reshape(1)
    return bf16_to_f32(bits) if entry.dtype == "BF16" else bits.astype(np.float32)


def _checked_order(entry: Entry, vocab: int) -> I32:
    order = entry.map()
    if not np.array_equal(np.sort(order), np.arange(vocab)):
        raise WeightsError(f"{entry.name} is not a permutation of the {vocab} token ids")
    return order.astype(np.int32)


def _pack_row_table(writer: pc.CacheWriter, spec: TensorSpec, entry: Entry, bf16: bool) -> None:
    rows, width = spec.shape
    if bf16:
        rounded = (f32_to_bf16(block) for block in _row_blocks(entry, rows, width))
        writer.add(spec.name, "<u2", spec.shape, rounded)
        return
    wide = padded(width, GROUP)
    exact = passes_through(entry, "int8")
    scales: list[np.ndarray] = []

    def blocks() -> Iterator[np.ndarray]:
        for start, stop in _steps(rows, width):
            if exact:
                codes, scale = entry.codes(start, stop)
                packed = np.zeros((len(codes), wide), dtype=np.int8)
                packed[:, :width] = codes
            else:
                packed, scale = pack_rows_int8(entry.rows(start, stop))
            scales.append(scale)
            yield packed

    writer.add(spec.name, "|i1", (rows, wide), blocks())
    writer.add(f"{spec.name}#scales", "<u2", (rows, wide // GROUP), scales)


def _pack_matrix(writer: pc.CacheWriter, name: str, entry: Entry, info: dict[str, Any]) -> None:
    n, k, stack, fmt = info["n"], info["k"], info["stack"], info["format"]
    tiles, groups = padded(n, TILE_ROWS) // TILE_ROWS, padded(k, GROUP) // GROUP
    scales: list[np.ndarray] = []
    trained = fmt == "int4" and entry.dtype == "BF16" and trained_for_int4(entry)
    if trained:
        info["on_grid"] = True

    def blocks() -> Iterator[np.ndarray]:
        for which in range(stack):
            for start, stop in _steps(n, k) if stack == 1 else [(which, which + 1)]:
                data: np.ndarray
                scale: np.ndarray | None
                if passes_through(entry, fmt):
                    codes, bits = entry.codes(start, stop)
                    data, scale = pack_codes(codes.reshape(-1, k), bits.reshape(-1, groups), fmt)
                elif trained:
                    codes, bits = recovered(entry.rows(start, stop).reshape(-1, k))
                    data, scale = pack_codes(codes, bits, fmt)
                else:
                    data, scale = pack_block(entry.rows(start, stop).reshape(-1, k), fmt)
                if scale is not None:
                    scales.append(scale)
                yield data

    if fmt == "bf16":
        writer.add(name, "<u2", (stack, tiles, groups * GROUP, TILE_ROWS), blocks())
        return
    chunks = 8 if fmt == "int8" else 4
    writer.add(name, "|u1", (stack, tiles, groups, chunks, TILE_ROWS, 4), blocks())
    writer.add(f"{name}#scales", "<u2", (stack, tiles, groups, TILE_ROWS), scales)
