"""Tensors of checkpoints with static activations: packed codes, scales and activation scales as one entry.

``gemma`` (transformers' integrations/gemma_quant.py): ``NAME.weight`` uint8 [n, ceil(k * bits / 8)], low bits first,
codes stored as code + 2^(bits - 1), or int8 [n, k] for 8 bits; ``NAME.weight_scale`` float32 [n, 1]; scalars
``NAME.input_activation_scale`` and ``NAME.output_activation_scale``, 0 where the layer was not calibrated. Embeddings:
``NAME.embedding_quantized`` and ``NAME.embedding_scale`` [n, blocks].
``compressed-tensors``: ``NAME.weight_packed`` int32 [n, words], the same bits, ``NAME.weight_shape`` int64 [2] and
``NAME.weight_scale`` [n, blocks], or ``NAME.weight`` int8 for 8 bits; ``NAME.input_scale``, ``NAME.output_scale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from geminate.arrays import F32, I8, U8
from geminate.checkpoint.entries import Entry, Grid
from geminate.checkpoint.quantization_config import Kind, StaticScheme
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import WeightsError
from geminate.formats.row_codes import unpack_codes

GRIDS: dict[int, Grid] = {2: "q2r", 4: "q4r", 8: "q8r"}
FLOATS = ("F32", "BF16", "F16")
TABLES = ("embed_tokens", "embed_tokens_per_layer")
_PARTS = (
    "weight", "weight_packed", "embedding_quantized", "weight_scale", "embedding_scale", "weight_shape",
    "input_activation_scale", "output_activation_scale", "input_scale", "output_scale",
)  # fmt: skip
_TOWERS = ("vision", "audio")  # never read, whatever they hold


@dataclass(frozen=True, kw_only=True)
class RowScaledEntry:
    """A matrix or table of 2-, 4- or 8-bit codes with scales per row, or per block of a row; an `Entry`.

    Attributes:
        shape: [n, k]; k counts whole bytes until `of_width` has set it.
        input_scale, output_scale: of the activations; 0: they are not rounded.
        blocks: scales of a row.
    """

    whole_norm: ClassVar[bool] = False
    name: str
    shape: tuple[int, ...]
    bits: int
    stored: TensorEntry
    scales: TensorEntry
    input_scale: float
    output_scale: float

    @property
    def grid(self) -> Grid:
        """See `Entry`."""
        return GRIDS[self.bits]

    @property
    def dtype(self) -> str:
        """The grid's name in capitals."""
        return self.grid.upper()

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.stored.nbytes + self.scales.nbytes

    @property
    def offset(self) -> int:
        """See `Entry`."""
        return self.stored.offset

    @property
    def blocks(self) -> int:
        """Scales of a row."""
        return self.scales.shape[1] if len(self.scales.shape) == 2 else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's codes in the file."""
        return self.stored.nbytes // max(1, self.shape[0])

    def of_width(self, k: int) -> RowScaledEntry:
        """The same with k columns.

        Raises:
            WeightsError: a row of the file has another number of bytes, or its blocks do not divide it.
        """
        need = -(-k * self.bits // 8)
        need = -(-need // 4) * 4 if self.stored.dtype == "I32" else need
        if self.row_bytes != need:
            raise WeightsError(
                f"{self.stored.path}: {self.stored.name} has {self.row_bytes} bytes a row; {k} columns of {self.bits} "
                f"bits, as quantization_config says, take {need}"
            )
        if k % self.blocks:
            raise WeightsError(f"{self.stored.path}: {self.scales.name} has {self.blocks} scales for {k} columns")
        return replace(self, shape=(self.shape[0], k))

    def map(self) -> U8:
        """The packed rows as they are stored, memory-mapped: uint8 [n, row_bytes]."""
        raw = self.stored.map()
        return raw.view(np.uint8).reshape(self.shape[0], -1)

    def codes(self, start: int, stop: int) -> tuple[I8, F32]:
        """Codes int8 [rows, k] and scales float32 [rows, blocks] of some rows.

        Raises:
            WeightsError: scales that are negative or not finite.
        """
        return unpack_codes(self.map()[start:stop], self.bits, self.shape[1]), self.row_scales(start, stop)

    def row_scales(self, start: int, stop: int) -> F32:
        """The scales alone; see `codes`."""
        found = self.scales.rows(start, stop).reshape(-1, self.blocks)
        if not (np.isfinite(found) & (found >= 0)).all():
            raise WeightsError(
                f"{self.scales.path}: {self.scales.name} holds negative scales or such that are not finite; download "
                "the checkpoint again"
            )
        return found

    def rows(self, start: int, stop: int) -> F32:
        """Some rows as float32."""
        codes, scales = self.codes(start, stop)
        width = codes.shape[1] // self.blocks
        wide: F32 = codes.astype(np.float32) * np.repeat(scales, width, axis=1)
        return wide


def with_row_scaled(entries: Mapping[str, Entry], scheme: StaticScheme) -> dict[str, Entry]:
    """Plain tensors as they are, and the parts of every quantized one as one entry, named like a plain one.

    Raises:
        WeightsError: parts that are missing, or do not go together or with the scheme; the tensor is named.
    """
    modules: dict[str, dict[str, TensorEntry]] = {}
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        module, _, part = name.rpartition(".")
        if part in _PARTS and isinstance(entry, TensorEntry) and not any(word in name for word in _TOWERS):
            modules.setdefault(module, {})[part] = entry
        else:
            found[name] = entry
    for module, parts in modules.items():
        kind: Kind = "Embedding" if module.rpartition(".")[2] in TABLES else "Linear"
        whole = f"{module}.weight"
        plain = parts.get("weight")
        if len(parts) == 1 and plain is not None and len(plain.shape) != 2:
            found[whole] = plain  # a norm
            continue
        bits = scheme.bits(module, kind)
        if bits is None:
            found[whole] = _plain(module, parts)
        else:
            form = _gemma_form if scheme.method == "gemma" else _compressed_form
            found[whole] = form(module, parts, bits, kind)
    return found


def _plain(module: str, parts: Mapping[str, TensorEntry]) -> TensorEntry:
    entry = next(iter(parts.values()))
    if set(parts) != {"weight"} or entry.dtype not in FLOATS:
        raise WeightsError(
            f"{entry.path}: {module} is stored as {', '.join(sorted(parts))} ({entry.dtype}), but quantization_config "
            "says that it is not quantized"
        )
    return entry


def _taken(
    module: str, parts: Mapping[str, TensorEntry], bits: int, needed: tuple[str, ...], may: tuple[str, ...]
) -> list[TensorEntry]:
    """The needed parts, if nothing else stands there."""
    path = next(iter(parts.values())).path
    for part in needed:
        if part not in parts:
            raise WeightsError(
                f"{path}: {module} has no {part} beside {', '.join(sorted(parts))}; quantization_config says that it "
                f"has {bits} bits"
            )
    if other := sorted(set(parts) - {*needed, *may}):
        raise WeightsError(f"{path}: {module} has {', '.join(other)} beside {', '.join(needed)}")
    return [parts[part] for part in needed]


def _gemma_form(module: str, parts: Mapping[str, TensorEntry], bits: int, kind: Kind) -> RowScaledEntry:
    if kind == "Embedding":
        stored, scales = _taken(module, parts, bits, ("embedding_quantized", "embedding_scale"), ())
        activations = (0.0, 0.0)
    else:
        sides = ("input_activation_scale", "output_activation_scale")
        stored, scales = _taken(module, parts, bits, ("weight", "weight_scale"), sides)
        if sum(side in parts for side in sides) == 1:
            missing = next(side for side in sides if side not in parts)
            raise WeightsError(f"{stored.path}: {module} has no {missing}, which belongs to its other scale")
        activations = _activations(parts, sides)
    return _entry(stored, scales, bits, "I8" if bits == 8 else "U8", activations, kind)


def _compressed_form(module: str, parts: Mapping[str, TensorEntry], bits: int, kind: Kind) -> RowScaledEntry:
    sides = () if kind == "Embedding" else ("input_scale", "output_scale")
    activations = _activations(parts, sides)
    if "weight_packed" in parts or bits != 8:
        stored, scales, shape = _taken(module, parts, bits, ("weight_packed", "weight_scale", "weight_shape"), sides)
        made = _entry(stored, scales, bits, "I32", activations, kind)
        if shape.dtype not in ("I64", "I32") or shape.shape != (2,):
            raise WeightsError(f"{shape.path}: {shape.name} must hold two integers")
        n, k = (int(number) for number in shape.map())
        if n != made.shape[0] or not 0 < k < 1 << 31:
            raise WeightsError(
                f"{shape.path}: {shape.name} says [{n}, {k}], but {stored.name} has {made.shape[0]} rows"
            )
        return made.of_width(k)
    stored, scales = _taken(module, parts, bits, ("weight", "weight_scale"), sides)
    return _entry(stored, scales, bits, "I8", activations, kind)


def _activations(parts: Mapping[str, TensorEntry], sides: tuple[str, ...]) -> tuple[float, float]:
    """Input and output scale; 0 without one."""
    into, out = (_activation(parts.get(side)) for side in sides) if sides else (0.0, 0.0)
    return into, out


def _activation(entry: TensorEntry | None) -> float:
    if entry is None:
        return 0.0
    if entry.dtype not in FLOATS or entry.shape not in ((), (1,)):
        raise WeightsError(f"{entry.path}: {entry.name} must be one number, not {entry.dtype} {list(entry.shape)}")
    value = float(np.float32(replace(entry, shape=(1,)).rows(0, 1)[0]))
    if not (np.isfinite(value) and value >= 0):
        raise WeightsError(f"{entry.path}: {entry.name} is {value}; it must be finite and not negative")
    return value


def _entry(
    stored: TensorEntry, scales: TensorEntry, bits: int, dtype: str, activations: tuple[float, float], kind: Kind
) -> RowScaledEntry:
    if stored.dtype != dtype or len(stored.shape) != 2:
        raise WeightsError(
            f"{stored.path}: {stored.name} is {stored.dtype} {list(stored.shape)}; {bits} bits, as quantization_config "
            f"says, are stored as {dtype} [rows, bytes]"
        )
    n = stored.shape[0]
    blocks = scales.shape[1] if len(scales.shape) == 2 else 1
    if scales.dtype not in FLOATS or len(scales.shape) not in (1, 2) or scales.shape[0] != n or blocks < 1:
        raise WeightsError(
            f"{scales.path}: {scales.name} is {scales.dtype} {list(scales.shape)}; {stored.name} has {n} rows"
        )
    if kind == "Linear" and blocks != 1:
        raise WeightsError(
            f"{scales.path}: {scales.name} has {blocks} scales a row; of matrices one scale a row is supported"
        )
    row_bytes = stored.nbytes // max(1, n)
    return RowScaledEntry(
        name=stored.name,
        shape=(n, row_bytes * 8 // bits),
        bits=bits,
        stored=stored,
        scales=scales,
        input_scale=activations[0],
        output_scale=activations[1],
    )
