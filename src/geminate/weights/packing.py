"""Every tensor of a model into the kernel layouts, a block of rows at a time, through a cache writer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geminate.arrays import F32, I32, is_permutation
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.packed import PackedEntry
from geminate.checkpoint.packed_writer import PartWriter
from geminate.checkpoint.row_scaled import RowScaledEntry
from geminate.errors import WeightsError
from geminate.formats.matrix import Layout
from geminate.formats.rounding import bf16_to_f32
from geminate.formats.row_codes import packed_width
from geminate.formats.table import BLOCK_FORMATS, FORMATS, Codes, WeightFormat, padded
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.weights.presets import Preset, tensor_format
from geminate.weights.scale_search import recovered, trained_for_int4
from geminate.weights.specs import BLOCKS, ORDERING, Matched, TensorSpec, expected_tensors

Layouts = Callable[[WeightFormat], Layout]  # `Backend.layout`
Progress = Callable[[str, int, int], None]  # tensor name, bytes done, total bytes
MAX_COLUMNS = 1 << 15  # of a row format: 2^15 products of an int8 and an unsigned byte fit int32
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
    """Whether stored codes can be taken as they are."""
    return entry.grid == fmt or entry.grid in FORMATS[fmt].includes


def pack_all(
    writer: PartWriter,
    matched: Matched,
    config: TargetConfig | AssistantConfig,
    preset: Preset,
    layouts: Layouts,
    progress: Progress | None,
) -> None:
    """Pack every expected tensor; what needs no packing is only noted, unless the file must hold everything.

    Args:
        progress: called after every block and every tensor; what it raises ends the packing.
    """
    total = sum(entry.nbytes for entry in matched.tensors.values())
    done = 0
    tensors: dict[str, dict[str, Any]] = {}
    for spec in expected_tensors(config):
        entry = matched.tensors[spec.name]
        fmt = tensor_format(spec, entry, preset, config)
        if progress is not None:
            writer.on_block = functools.partial(progress, spec.name, done, total)
        order = matched.tensors[ORDERING] if spec.clusters > 1 else None
        tensors[spec.name] = _pack_one(writer, spec, entry, layouts(fmt), fmt, order)
        done += entry.nbytes
        if progress is not None:
            progress(spec.name, done, total)
    writer.tensors = tensors


def packed_bytes(matched: Matched, config: TargetConfig | AssistantConfig, preset: Preset, layouts: Layouts) -> int:
    """Bytes of all arrays that `pack_all` writes where everything is copied."""
    total = 0
    for spec in expected_tensors(config):
        if spec.role in ("vector", "scalar", "order"):
            total += 4 * math.prod(spec.shape)
            continue
        entry = matched.tensors[spec.name]
        fmt = tensor_format(spec, entry, preset, config)
        n, k = spec.matrix_shape
        planes = row_table_planes(n, k, fmt) if spec.role == "row_table" else layouts(fmt).shapes(n, k)
        total += spec.stack * sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in planes.values())
    return total


def _steps(rows: int, width: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    step = max(multiple, BLOCK_BYTES // (4 * width) // multiple * multiple)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _pack_one(
    writer: PartWriter, spec: TensorSpec, entry: Entry, layout: Layout, fmt: WeightFormat, order: Entry | None
) -> dict[str, Any]:
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
    n, k = spec.matrix_shape
    info |= {"n": n, "k": k, "stack": spec.stack, "format": fmt}
    if isinstance(entry, PackedEntry) and entry.format == fmt:
        info |= entry.carried
    if spec.role == "row_table":
        if isinstance(entry, PackedEntry) and entry.format == fmt:
            return info | _copy_table(writer, spec, entry)
        # The largest tensor, already row-major bfloat16: read in place, never copied to the cache or to memory.
        if fmt == "bf16" and entry.dtype == "BF16" and entry.offset % 2 == 0 and not writer.whole:
            return info | {"mapped": True}
        if fmt in BLOCK_FORMATS and entry.grid == fmt:
            return info | _pack_block_table(writer, spec, entry, fmt)
        if isinstance(entry, RowScaledEntry):
            return info | _pack_row_scaled_table(writer, spec, entry)
        _pack_row_table(writer, spec, entry, fmt)
        return info
    if isinstance(entry, RowScaledEntry):
        info |= _activation_scales(spec, entry)
    _pack_matrix(
        writer, spec.name, entry, layout, info, None if order is None else _checked_order(order, spec.shape[0])
    )
    return info


def _activation_scales(spec: TensorSpec, entry: RowScaledEntry) -> dict[str, float]:
    """What a matrix with static activations has in the header.

    Raises:
        WeightsError: scales by blocks, or rows so long that their integer sums could overflow.
    """
    if entry.blocks > 1:
        raise WeightsError(
            f"{entry.name} has {entry.blocks} scales a row and is the head too (tie_word_embeddings): a head needs one "
            "scale a row"
        )
    if spec.shape[-1] > MAX_COLUMNS:
        raise WeightsError(f"{entry.name} has {spec.shape[-1]:,} columns; integer sums hold {MAX_COLUMNS:,}")
    return {"input_scale": entry.input_scale, "output_scale": entry.output_scale}


def _pack_row_scaled_table(writer: PartWriter, spec: TensorSpec, entry: RowScaledEntry) -> dict[str, Any]:
    """A table of packed codes: they stay in the checkpoint where they are stored as they are read."""
    rows, width = spec.shape
    planes = row_table_planes(rows, width, entry.grid, entry.blocks)
    info: dict[str, Any] = {"blocks": entry.blocks}
    dtype, shape = planes["codes"]
    if entry.as_read and not writer.whole:
        info["mapped"] = True
    else:
        writer.add(spec.name, dtype, shape, (entry.packed(start, stop) for start, stop in _steps(rows, width)))
    scales = (entry.row_scales(start, stop) for start, stop in _steps(rows, width))
    writer.add(f"{spec.name}#scales", *planes["scales"], scales)
    return info


def _pack_block_table(writer: PartWriter, spec: TensorSpec, entry: Entry, fmt: WeightFormat) -> dict[str, Any]:
    """A table of blocks: they stay in the checkpoint unless all must be copied."""
    if not writer.whole:
        return {"mapped": True}
    rows, width = spec.shape
    stored, planes = entry.map(), row_table_planes(rows, width, fmt)
    writer.add(spec.name, *planes["codes"], (stored[start:stop] for start, stop in _steps(rows, width)))
    return {}


def _copy_table(writer: PartWriter, spec: TensorSpec, entry: PackedEntry) -> dict[str, Any]:
    """A table of a packed file, which is the same in every layout: its codes stay there unless all must be copied."""
    rows = spec.shape[0]
    for plane, array in entry.planes.items():
        if plane != "codes" or writer.whole:
            name = spec.name if plane == "codes" else f"{spec.name}#{plane}"
            parts = (array[start:stop] for start, stop in _steps(rows, spec.shape[1]))
            writer.add(name, array.dtype.str, array.shape, parts)
    return {} if writer.whole else {"mapped": True}


def _number(entry: Entry) -> F32:
    bits = entry.map().reshape(1)
    return bf16_to_f32(bits) if entry.dtype == "BF16" else bits.astype(np.float32)


def _checked_order(entry: Entry, vocab: int) -> I32:
    order = entry.map()
    if not is_permutation(order, vocab):
        raise WeightsError(f"{entry.name} is not a permutation of the {vocab} token ids")
    return order.astype(np.int32)


def row_table_planes(
    rows: int, width: int, fmt: WeightFormat, blocks: int = 1
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """NumPy type and shape of each plane of a row table.

    Args:
        blocks: of a row format, parts of a row that have a scale each.
    """
    row = FORMATS[fmt]
    if row.row_scaled:
        return {"codes": ("|u1", (rows, packed_width(width, row.bits))), "scales": ("<f4", (rows, blocks))}
    if row.blocks is not None:
        return {"codes": ("|u1", (rows, padded(width, row.blocks.columns) // row.blocks.columns * row.blocks.nbytes))}
    wide = padded(width, row.group or 1)
    planes: dict[str, tuple[str, tuple[int, ...]]] = {"codes": (row.dtype, (rows, wide))}
    if row.group:
        planes["scales"] = ("<u2", (rows, wide // row.group))
    return planes


def _pack_row_table(writer: PartWriter, spec: TensorSpec, entry: Entry, fmt: WeightFormat) -> None:
    rows, width = spec.shape
    planes = row_table_planes(rows, width, fmt)
    dtype, shape = planes["codes"]
    scales: list[np.ndarray] = []

    def blocks() -> Iterator[np.ndarray]:
        for start, stop in _steps(rows, width):
            codes = _codes(entry, start, stop, fmt, trained=False)
            if codes.scales is not None:
                scales.append(codes.scales)
            packed = np.zeros((len(codes.values), shape[1]), dtype=dtype)
            packed[:, : codes.values.shape[1]] = codes.values
            yield packed

    writer.add(spec.name, dtype, shape, blocks())
    if scales:
        writer.add(f"{spec.name}#scales", *planes["scales"], scales)


def _codes(entry: Entry, start: int, stop: int, fmt: WeightFormat, *, trained: bool) -> Codes:
    """Rows of a matrix in a format: their own codes where they have them, else rounded; leading axes are flattened.

    Args:
        trained: the weights lie on a Q4_0 grid whose codes are to be found.
    """
    if isinstance(entry, PackedEntry) and entry.format == fmt:
        return entry.stored(start, stop)
    if passes_through(entry, fmt):
        codes, bits = entry.codes(start, stop)
        return Codes(values=codes.reshape(-1, codes.shape[-1]), scales=bits.reshape(-1, bits.shape[-1]))
    rows = entry.rows(start, stop)
    rows = rows.reshape(-1, rows.shape[-1])
    if trained:
        codes, bits = recovered(rows)
        return Codes(values=codes, scales=bits)
    return FORMATS[fmt].quantize(rows)


def _pack_matrix(
    writer: PartWriter, name: str, entry: Entry, layout: Layout, info: dict[str, Any], order: I32 | None
) -> None:
    """Pack a matrix or a stack of them.

    Args:
        order: rows of the stack's matrices, one behind the other; None: as they are stored.
    """
    n, k, stack, fmt = info["n"], info["k"], info["stack"], info["format"]
    # A block's codes are written at once; its other planes, small, behind all codes.
    rest: dict[str, list[np.ndarray]] = {plane: [] for plane in FORMATS[fmt].planes[1:]}
    trained = fmt == "int4" and entry.dtype == "BF16" and trained_for_int4(entry)
    if trained:
        info["on_grid"] = True

    def coded() -> Iterator[Codes]:
        if order is not None:
            whole = _joined([_codes(entry, *step, fmt, trained=trained) for step in _steps(n * stack, k)])
            for rows in order.reshape(stack, n):
                scales = None if whole.scales is None else whole.scales[rows]
                yield Codes(values=whole.values[rows], scales=scales)
            return
        steps = _steps(n, k, layout.rows) if stack == 1 else ((which, which + 1) for which in range(stack))
        for start, stop in steps:
            yield _codes(entry, start, stop, fmt, trained=trained)

    def blocks() -> Iterator[np.ndarray]:
        for codes in coded():
            planes = layout.pack(codes)
            for plane, parts in rest.items():
                parts.append(planes[plane])
            yield planes["codes"]

    shapes = layout.shapes(n, k)
    for plane, (dtype, shape) in shapes.items():
        parts = blocks() if plane == "codes" else rest[plane]
        writer.add(name if plane == "codes" else f"{name}#{plane}", dtype, (stack, *shape), parts)


def _joined(parts: list[Codes]) -> Codes:
    scales: list[Any] = [part.scales for part in parts if part.scales is not None]
    values = np.concatenate([part.values for part in parts])
    return Codes(values=values, scales=np.concatenate(scales) if scales else None)
