"""Packed matrices and row tables from float32 weights, in the layout of this machine's backend."""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32
from geminate.backends import select
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.row_codes import pack_codes
from geminate.formats.table import FORMATS, WeightFormat


def pack_matrix(weights: F32, fmt: WeightFormat) -> PackedMatrix:
    """Pack float32 [n, k], or a stack [e, n, k]."""
    stack = weights if weights.ndim == 3 else weights[None]
    layout = select.layout(fmt)
    packed = [layout.pack(FORMATS[fmt].quantize(matrix)) for matrix in stack]
    planes = {name: np.stack([part[name] for part in packed]) for name in FORMATS[fmt].planes}
    return PackedMatrix(format=fmt, n=stack.shape[1], k=stack.shape[2], planes=planes, layout=layout, stack=len(stack))


def row_table(values: F32, fmt: WeightFormat) -> RowTable:
    """A row-major table of float32 [rows, width]."""
    row = FORMATS[fmt]
    codes = row.quantize(values)
    stored = pack_codes(codes.values.view(np.int8), row.bits) if row.row_scaled else codes.values
    planes = {"codes": stored} | ({} if codes.scales is None else {"scales": codes.scales})
    return RowTable(format=fmt, rows=len(values), width=values.shape[1], planes=planes)
