"""Block formats: stored blocks mean what the gguf package says, bit for bit, however they are packed."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.errors import WeightsError
from geminate.formats.matrix import RowTable
from geminate.formats.table import BLOCK_FORMATS, FORMATS, WeightFormat
from support.blocks import OWN, kind, packed_rows, quantized, random_rows

NAMES = sorted(BLOCK_FORMATS)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 37), st.integers(1, 4), st.integers(0, 1000))
def test_dequantized_weights_are_the_gguf_packages(fmt: WeightFormat, n: int, blocks: int, seed: int) -> None:
    k = blocks * BLOCK_FORMATS[fmt].columns
    raw = random_rows(fmt, n, k, seed)
    want = gguf.dequantize(raw, kind(fmt))
    assert same_bits(BLOCK_FORMATS[fmt].dequantize(*BLOCK_FORMATS[fmt].unpack(raw)), want)
    w = packed_rows(fmt, raw, k)
    assert same_bits(w.dequantized(), want)
    rows = np.array([n - 1, 0, n // 2, 0], np.int32)
    assert same_bits(w.dequantized_rows(rows), want[rows])
    table = RowTable(format=fmt, rows=n, width=k, planes={"codes": raw})
    assert same_bits(table.dequantized_rows(rows), want[rows])


@pytest.mark.parametrize("fmt", NAMES)
def test_packed_bytes_are_near_those_of_the_file(fmt: WeightFormat) -> None:
    n, k = 64, 1536
    stored = random_rows(fmt, n, k)
    assert packed_rows(fmt, stored, k).nbytes == FORMATS[fmt].nbytes(n, k) <= 1.04 * stored.nbytes


@pytest.mark.parametrize("fmt", NAMES)
def test_scales_that_are_not_finite_are_seen(fmt: WeightFormat) -> None:
    blocks = BLOCK_FORMATS[fmt]
    _, records = blocks.unpack(random_rows(fmt, 3, 512))
    assert blocks.finite(records)
    for bits in (0x7C00, 0xFC00, 0x7E00):
        for at in range(blocks.halves):
            broken = records.copy()
            broken[1, blocks.words + at] = bits
            assert not blocks.finite(broken)


@pytest.mark.parametrize("fmt", NAMES)
def test_nothing_is_rounded_to_them_here(fmt: WeightFormat) -> None:
    with pytest.raises(WeightsError, match=f"cannot be rounded to {fmt} here"):
        FORMATS[fmt].quantize(np.ones((1, 256), np.float32))


@pytest.mark.parametrize("to", OWN)
def test_the_quantizers_of_these_tests_are_near(to: gguf.GGMLQuantizationType) -> None:
    """Within a step of the largest of a block, so that models made with them are models."""
    x = np.random.default_rng(1).standard_normal((5, 512)).astype(np.float32)
    bound = {"Q4_K": 0.3, "Q5_K": 0.15, "Q6_K": 0.08, "IQ4_NL": 0.4}[to.name]
    assert np.abs(gguf.dequantize(quantized(x, to), to) - x).max() < bound
