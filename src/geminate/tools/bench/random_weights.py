"""Random weights of a real shape, made in memory: pass times do not depend on their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from geminate.arrays import F32, I32, U8, U16
from geminate.backends import select
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.table import FORMATS, Codes, WeightFormat
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.weights.packing import row_table_planes
from geminate.weights.presets import Preset, mobile_scales, tensor_format
from geminate.weights.specs import TensorSpec, expected_tensors

ALIGN = 4096
NOISE = 1 << 24  # bytes that are drawn; all codes are made of them
MATRIX_ROLES = ("matrix", "embedding", "keep", "experts")


def plane_shapes(spec: TensorSpec, fmt: WeightFormat) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each plane of a tensor, stack included."""
    shapes = select.layout(fmt).shapes(*spec.matrix_shape)
    stack = (spec.stack,) if spec.stack > 1 else ()
    return {plane: (np.dtype(dtype), (*stack, *shape)) for plane, (dtype, shape) in shapes.items()}


def matrix_bytes(spec: TensorSpec, preset: Preset, config: TargetConfig | AssistantConfig) -> int:
    """Packed bytes, scales included, of a tensor that passes stream; 0 for others."""
    if spec.role not in MATRIX_ROLES:
        return 0
    shapes = plane_shapes(spec, tensor_format(spec, None, preset, config))
    return sum(dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in shapes.values())


def streamed_bytes(config: TargetConfig | AssistantConfig, preset: Preset) -> int:
    """Bytes of all matrices: what must fit into memory."""
    return sum(matrix_bytes(spec, preset, config) for spec in expected_tensors(config))


class RandomStore:
    """Stands in for a `WeightStore`: random codes, small constant scales.

    Args:
        config: what the tensors are for.
        preset: see `presets.tensor_format`.
        on_matrix: called with (bytes done, bytes) after every matrix.
    """

    def __init__(
        self,
        config: TargetConfig | AssistantConfig,
        preset: Preset,
        on_matrix: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.format = preset
        self.config = config
        self.path = None
        self.specs = {s.name: s for s in expected_tensors(config)}
        self._made: dict[str, PackedMatrix] = {}
        self._rng = np.random.default_rng(0)
        # Twice, so that it can be read from any place on.
        self._noise = np.tile(self._rng.integers(1, 256, NOISE, dtype=np.uint8), 2)
        self._on_matrix = on_matrix
        self._done, self._total = 0, streamed_bytes(config, preset)

    def matrix(self, name: str) -> PackedMatrix:
        """A random packed matrix, or a stack of them."""
        if name not in self._made:
            spec = self.specs[name]
            fmt = tensor_format(spec, None, self.format, self.config)
            shapes = plane_shapes(spec, fmt)
            dtype, shape = shapes["codes"]
            codes = self._codes(dtype.itemsize * int(np.prod(shape, dtype=np.int64))).view(dtype)
            if FORMATS[fmt].activations == "float":
                codes = (codes & np.uint16(0x807F)) | np.uint16(0x3C00)  # about 0.01, either sign
            planes = {"codes": codes}
            # The embedding has 2^-4, so that tokens stay different and are routed to different experts.
            scale = 2.0**-4 if spec.role == "embedding" else 2.0**-12
            input_scale = output_scale = 0.0
            if FORMATS[fmt].row_scaled:
                planes["scales"] = np.full(shapes["scales"][1], scale, dtype=np.float32)
                input_scale, output_scale = mobile_scales(spec)
            elif FORMATS[fmt].blocks is not None:
                planes["scales"] = self._records(fmt, shapes["scales"][1], scale)
            elif "scales" in shapes:
                planes["scales"] = np.full(shapes["scales"][1], scale, dtype=np.float16).view(np.uint16)
            self._made[name] = PackedMatrix(
                format=fmt,
                n=spec.matrix_shape[0],
                k=spec.matrix_shape[1],
                planes=planes,
                layout=select.layout(fmt),
                stack=spec.stack,
                input_scale=input_scale,
                output_scale=output_scale,
            )
            self._done += sum(plane.nbytes for plane in planes.values())
            self._on_matrix(self._done, self._total)
        return self._made[name]

    def _codes(self, size: int) -> U8:
        """Bytes of noise from a random place on, so that no two experts or layers hold the same rows."""
        start, codes = int(self._rng.integers(NOISE)), _room(size)
        for at in range(0, size, NOISE):
            part = codes[at : at + NOISE]
            part[:] = self._noise[start : start + len(part)]
        return codes

    def _records(self, fmt: WeightFormat, shape: tuple[int, ...], scale: float) -> U16:
        """Constant records: steps of ``scale``, and the minima that put the weights around zero."""
        row = FORMATS[fmt]
        assert row.blocks is not None
        small, middle = row.blocks.small, (row.lowest + row.highest) / 2
        numbers = [scale / 32 if small else scale, middle * scale / (60 if small else 1)][: row.blocks.halves]
        parts = np.full(small, 32, dtype=np.uint8)
        if len(numbers) == 2:
            parts[small // 2 :] = 60
        record = np.concatenate((np.array(numbers, np.float16).view(np.uint16), parts.view(np.uint16)))
        codes = Codes(values=np.zeros((16, row.blocks.columns), np.int8), scales=np.tile(record, (16, 1)))
        tile = select.layout(fmt).pack(codes)["scales"].reshape(-1)
        records: U16 = _room(2 * int(np.prod(shape, dtype=np.int64))).view(np.uint16).reshape(-1, len(tile))
        records[:] = tile
        return records

    def embedding(self) -> PackedMatrix:
        """The tied table."""
        return self.matrix("embed_tokens")

    def head(self) -> PackedMatrix:
        """The tied table."""
        return self.matrix("embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """Zeros, never touched beyond the rows that are read."""
        spec = self.specs[name]
        rows, width = spec.shape
        fmt = tensor_format(spec, None, self.format, self.config)
        if fmt == "bf16":
            fmt = "int8"  # half the address space
        planes = {
            plane: np.zeros(shape, dtype=dtype) for plane, (dtype, shape) in row_table_planes(rows, width, fmt).items()
        }
        return RowTable(format=fmt, rows=rows, width=width, planes=planes)

    def vector(self, name: str) -> F32:
        """Ones."""
        return np.ones(self.specs[name].shape, dtype=np.float32)

    def scalar(self, name: str) -> float:
        """One."""
        return 1.0

    def order(self, name: str) -> I32:
        """A random order of the vocabulary."""
        return cast(I32, self._rng.permutation(self.specs[name].shape[0]).astype(np.int32))


def _room(size: int) -> U8:
    """Bytes that begin at a page, as in the packed file: loads across cache lines cost a seventh of the products."""
    room = np.empty(size + ALIGN, dtype=np.uint8)
    aligned: U8 = room[-room.ctypes.data % ALIGN :][:size]
    return aligned
