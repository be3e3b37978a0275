"""Random weights of a real shape, made in memory: pass times do not depend on their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from geminate.arrays import F32, I32, U8
from geminate.backends import select
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.table import FORMATS, WeightFormat, padded
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.weights.presets import Preset, tensor_format
from geminate.weights.specs import TensorSpec, expected_tensors

NOISE = 1 << 24  # bytes that are drawn; all codes are made of them
MATRIX_ROLES = ("matrix", "embedding", "keep", "experts")


def _shapes(spec: TensorSpec, fmt: WeightFormat) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each plane of a tensor, stack included."""
    *stack, n, k = spec.shape
    shapes = select.layout(fmt).shapes(n, k)
    return {plane: (np.dtype(dtype), (*stack, *shape)) for plane, (dtype, shape) in shapes.items()}


def matrix_bytes(spec: TensorSpec, preset: Preset, config: TargetConfig | AssistantConfig) -> int:
    """Packed bytes, scales included, of a tensor that passes stream; 0 for others."""
    if spec.role not in MATRIX_ROLES:
        return 0
    shapes = _shapes(spec, tensor_format(spec, None, preset, config))
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
            shapes = _shapes(spec, fmt)
            dtype, shape = shapes["codes"]
            codes = self._codes(dtype.itemsize * int(np.prod(shape, dtype=np.int64))).view(dtype)
            if not FORMATS[fmt].group:
                codes = (codes & np.uint16(0x807F)) | np.uint16(0x3C00)  # about 0.01, either sign
            planes = {"codes": codes}
            if "scales" in shapes:
                # 2^-12; the embedding 2^-4, so that tokens stay different and are routed to different experts.
                scale = 0x2C00 if spec.role == "embedding" else 0x0C00
                planes["scales"] = np.full(shapes["scales"][1], scale, dtype=np.uint16)
            self._made[name] = PackedMatrix(
                format=fmt,
                n=spec.shape[-2],
                k=spec.shape[-1],
                planes=planes,
                layout=select.layout(fmt),
                stack=spec.shape[0] if len(spec.shape) == 3 else 1,
            )
            self._done += sum(plane.nbytes for plane in planes.values())
            self._on_matrix(self._done, self._total)
        return self._made[name]

    def _codes(self, size: int) -> U8:
        """Bytes of noise from a random place on, so that no two experts or layers hold the same rows."""
        start = int(self._rng.integers(NOISE))
        codes = np.empty(size, dtype=np.uint8)
        for at in range(0, size, NOISE):
            part = codes[at : at + NOISE]
            part[:] = self._noise[start : start + len(part)]
        return codes

    def embedding(self) -> PackedMatrix:
        """The tied table."""
        return self.matrix("embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """Zeros, never touched beyond the rows that are read."""
        rows, width = self.specs[name].shape
        wide = padded(width, FORMATS["int8"].group)
        planes: dict[str, np.ndarray] = {
            "codes": np.zeros((rows, wide), dtype=np.int8),
            "scales": np.zeros((rows, wide // FORMATS["int8"].group), np.uint16),
        }
        return RowTable(format="int8", rows=rows, width=width, planes=planes)

    def vector(self, name: str) -> F32:
        """Ones."""
        return np.ones(self.specs[name].shape, dtype=np.float32)

    def scalar(self, name: str) -> float:
        """One."""
        return 1.0

    def order(self, name: str) -> I32:
        """A random order of the vocabulary."""
        return cast(I32, self._rng.permutation(self.specs[name].shape[0]).astype(np.int32))
