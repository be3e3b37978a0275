"""The format table: what stored numbers mean, packed and back; and that the C++ table says the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.backends import select
from geminate.errors import WeightsError
from geminate.formats.matrix import RowTable
from geminate.formats.rounding import bf16_to_f32, f32_to_bf16
from geminate.formats.row_codes import pack_codes, packed_width, unpack_codes
from geminate.formats.table import FORMATS, MOST_COLUMNS, ROW_FORMATS, Codes, Format
from support.packed import pack_matrix, row_table

NATIVE = Path(__file__).parents[2] / "native" / "kernels" / "formats.h"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 130), st.integers(0, 1000))
def test_weights_on_a_grid_come_back_exactly(n: int, k: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    groups = -(-k // 32)
    scales = (2.0 ** g.integers(-12, 2, (n, groups)) * g.integers(1024, 2048, (n, groups)) / 1024).astype(np.float16)
    scales *= g.choice([-1, 1], scales.shape).astype(np.float16)
    for fmt, low, high in (("int8", -127, 127), ("int4", -8, 7)):
        codes = g.integers(low, high + 1, (n, groups * 32))
        codes[:, ::32] = low  # the extreme that fixes the scale stands in every group
        used = np.abs(scales) if fmt == "int8" else scales
        wide = (codes.reshape(n, groups, 32) * used.astype(np.float32)[..., None]).reshape(n, -1)[:, :k]
        packed = pack_matrix(wide.astype(np.float32), fmt)  # type: ignore[arg-type]
        assert np.array_equal(packed.dequantized(), wide)
        rows = np.array([0, n - 1], dtype=np.int32)
        assert np.array_equal(packed.dequantized_rows(rows), wide[rows])


@pytest.mark.parametrize(("fmt", "bound"), [("bf16", 2**-8), ("int8", 1 / 200), ("int4", 1 / 6)])
def test_error_of_random_weights(fmt: str, bound: float) -> None:
    w = np.random.default_rng(0).standard_normal((3, 40, 100)).astype(np.float32)
    packed = pack_matrix(w, fmt)  # type: ignore[arg-type]
    for i in range(3):
        assert np.abs(packed.dequantized(i) - w[i]).max() <= bound * np.abs(w).max()


def test_zero_tiny_and_unusable_groups() -> None:
    for fmt in ("int8", "int4"):
        assert not pack_matrix(np.zeros((5, 40), np.float32), fmt).dequantized().any()  # type: ignore[arg-type]
        assert not pack_matrix(np.full((5, 40), 1e-12, np.float32), fmt).dequantized().any()  # type: ignore[arg-type]
        for bad in (np.inf, np.nan, 1e9):
            with pytest.raises(WeightsError, match="not finite or too large"):
                pack_matrix(np.full((1, 32), bad, np.float32), fmt)  # type: ignore[arg-type]


def test_bf16_rounds_to_nearest_even() -> None:
    x = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    assert np.array_equal(bf16_to_f32(f32_to_bf16(x)), torch.tensor(x).to(torch.bfloat16).float().numpy())


def test_row_table() -> None:
    x = np.random.default_rng(2).standard_normal((9, 50)).astype(np.float32)
    got = row_table(x, "int8").dequantized_rows(np.array([8, 0], np.int32))
    assert np.abs(got - x[[8, 0]]).max() < 0.02


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.integers(1, 40), st.integers(1, 100), st.integers(0, 1000))
def test_a_layout_keeps_codes_and_scales(fmt: str, n: int, k: int, seed: int) -> None:
    """Any rows, in any order, repeated or not, come back as they went in."""
    row, layout = FORMATS[fmt], select.layout(fmt)  # type: ignore[index, arg-type]
    g = np.random.default_rng(seed)
    low, high = (row.lowest, row.highest) if row.highest else (0, 65535)
    values = g.integers(low, high + 1, (n, k)).astype(row.dtype)
    scales = g.integers(0, 30000, (n, row.scale_words(k))).astype(np.uint16) if row.group else None
    if row.row_scaled:
        scales = g.random((n, 1), dtype=np.float32)
    planes = layout.pack(Codes(values=values, scales=scales))
    shapes = layout.shapes(n, k)
    assert list(planes) == list(shapes) == list(row.planes)
    for name, (dtype, shape) in shapes.items():
        assert (planes[name].dtype, planes[name].shape) == (np.dtype(dtype), shape)
    rows = g.integers(0, n, 7).astype(np.int32)
    for asked, want in ((None, np.arange(n)), (rows, rows)):
        got = layout.unpack(planes, n, k, asked)
        assert np.array_equal(got.values, values[want])
        assert scales is None or np.array_equal(got.scales, scales[want])
    if n % layout.rows == 0 and k % 64 == 0:  # whole cells of every format
        assert sum(plane.nbytes for plane in planes.values()) == row.nbytes(n, k)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ROW_FORMATS)), st.integers(1, 9), st.integers(1, 70), st.integers(0, 1000))
def test_codes_of_a_row_are_packed_low_bits_first(bits: int, n: int, k: int, seed: int) -> None:
    lowest = -(1 << (bits - 1))
    codes = np.random.default_rng(seed).integers(lowest, -lowest, (n, k)).astype(np.int8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (n, packed_width(k, bits)) and np.array_equal(unpack_codes(packed, bits, k), codes)
    offset = 0 if bits == 8 else -lowest
    for i, row in enumerate(packed):
        whole = int.from_bytes(row.tobytes(), "little")
        fields = [(whole >> (bits * j)) & ((1 << bits) - 1) for j in range(k)]
        assert fields == [(int(code) + offset) & ((1 << bits) - 1) for code in codes[i]]
        assert whole >> (bits * k) == 0


def test_a_table_has_a_scale_for_each_block_of_a_row() -> None:
    g = np.random.default_rng(4)
    codes, scales = g.integers(-2, 2, (5, 12)).astype(np.int8), g.random((5, 3), dtype=np.float32)
    table = RowTable(format="q2r", rows=5, width=12, planes={"codes": pack_codes(codes, 2), "scales": scales})
    want = np.array([[codes[r, c] * scales[r, c // 4] for c in range(12)] for r in (4, 0, 4)], np.float32)
    assert np.array_equal(table.dequantized_rows(np.array([4, 0, 4], np.int32)), want)


def blocks_of(row: Format) -> tuple[str, ...]:
    """What stands there of a block format, defaults left out."""
    blocks = row.blocks
    if blocks is None:
        return ("",) * 4
    given = ((blocks.columns, 32), (blocks.halves, 1), (blocks.small, 0), (blocks.nbytes, 0))
    return tuple("" if value == default else str(value) for value, default in given)


def test_the_native_table_has_the_same_rows() -> None:
    """Names, bits, activations and row tables of native/kernels/formats.h, and the longest row."""
    text = NATIVE.read_text()
    found = re.findall(
        r'\.name = "(\w+)",\s*\.bits = (\d+),\s*\.columns = (\w+),\s*\.activations = Seen::(\w+),\s*\.table = (\w+)'
        r"(?:,\s*\.block = (\d+))?(?:,\s*\.halves = (\d+))?(?:,\s*\.small = (\d+))?(?:,\s*\.stored = (\d+))?",
        text,
    )
    ours = [
        (
            row.name,
            str(row.bits),
            "kRowColumns" if row.row_scaled else "kGroup",
            "floats" if row.activations == "float" else row.activations,
            "true" if row.row_table else "false",
            *blocks_of(row),
        )
        for row in FORMATS.values()
    ]
    assert found == ours
    assert f"kMostColumns = 1 << {MOST_COLUMNS.bit_length() - 1};" in text and MOST_COLUMNS.bit_count() == 1
