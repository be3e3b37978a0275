"""A second layout: rows as they come, as a backend of another processor could want them."""

from __future__ import annotations

from typing import Any

import numpy as np

from geminate.backends import select
from geminate.formats.table import FORMATS, Codes, WeightFormat, padded


class RowLayout:
    """See `geminate.formats.matrix.Layout`."""

    name, rows = "rows", 1

    def __init__(self, fmt: WeightFormat) -> None:
        self.format = FORMATS[fmt]

    def _widths(self, k: int) -> tuple[int, int]:
        group = self.format.blocks.columns if self.format.blocks else self.format.group or 1
        return padded(k, group), 1 if self.format.row_scaled else self.format.scale_words(k)

    def shapes(self, n: int, k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        wide, groups = self._widths(k)
        made = {"codes": (self.format.dtype, (n, wide))}
        if "scales" in self.format.planes:
            made["scales"] = ("<f4" if self.format.row_scaled else "<u2", (n, groups))
        return made

    def pack(self, codes: Codes) -> dict[str, np.ndarray]:
        n, k = codes.values.shape
        full = np.zeros((n, self._widths(k)[0]), dtype=self.format.dtype)
        full[:, :k] = codes.values
        return {"codes": full} | ({} if codes.scales is None else {"scales": codes.scales})

    def unpack(self, planes: Any, n: int, k: int, rows: np.ndarray | None = None) -> Codes:
        found = {name: plane.reshape(n, -1)[slice(None) if rows is None else rows] for name, plane in planes.items()}
        return Codes(values=found["codes"][:, :k], scales=found.get("scales"))


def either(name: str, fmt: WeightFormat) -> Any:
    """`geminate.backends.select.layout_named` of a version that knows both."""
    return RowLayout(fmt) if name == RowLayout.name else select.layout_named(name, fmt)
