"""The KV cache: growth, rings, rollback."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate.backends.kv_rings import KVRings, block_bytes
from geminate.errors import ContextLengthError
from geminate.kv.store import KVDtype, SlotSpec

SLOTS = (SlotSpec(kv_heads=2, head_dim=4, window=10), SlotSpec(kv_heads=1, head_dim=8, window=0))


FORMATS: tuple[KVDtype, ...] = ("float16", "int8")


def put(cache: KVRings, rows: int) -> None:
    """Write each position's number into its rows, as a pass would."""
    cache.reserve(rows)
    for position in range(cache.length, cache.length + rows):
        for slot, spec in enumerate(cache.slots):
            row = np.full((spec.kv_heads, spec.head_dim), position % 2048, np.float32)
            cache.write(slot, position, row, -row)
    cache.advance(rows)


def check(cache: KVRings) -> None:
    """Every position a next row may look at is where it belongs, with its own content."""
    for slot, spec in enumerate(cache.slots):
        first = max(0, cache.length - spec.window + 1) if spec.window else 0
        want = (np.arange(first, cache.length) % 2048)[None, :, None]
        keys, values = cache.rows(slot, first, cache.length)
        for got in (keys, -values):  # a constant vector has one code: exact but for the scale's rounding
            assert np.allclose(got, want, rtol=1e-6, atol=0), f"a position of a window-{spec.window} slot is lost"


@given(st.lists(st.tuples(st.integers(1, 90), st.floats(0, 1)), min_size=1, max_size=40), st.integers(0, 1 << 30))
def test_no_needed_row_is_ever_lost(moves: list[tuple[int, float]], seed: int) -> None:
    cache = KVRings(SLOTS, max_context=4000, max_rows=90)
    for rows, kept in moves:
        if cache.length + rows > 4000:
            break
        before = cache.length
        put(cache, rows)
        check(cache)
        cache.truncate(before + round(kept * rows))  # a rejected block: never behind the pass
        check(cache)


@pytest.mark.parametrize("dtype", FORMATS)
def test_growth_keeps_content_and_updates_the_table(dtype: KVDtype) -> None:
    cache = KVRings(SLOTS, max_context=5000, max_rows=64, dtype=dtype)
    for _ in range(60):
        put(cache, 64)
    check(cache)
    arrays = [array.ctypes.data for array in cache.planes[1].arrays]
    assert cache.table[1].tolist() == [*arrays[:2], cache.table[1, 2], *(arrays[2:] or (0, 0))]
    assert cache.table[1, 2] == 64 * cache.planes[1].arrays[0].shape[1] >= 60 * 64
    assert cache.table[0, 2] < 200, "a ring does not grow"
    assert all(address % 64 == 0 for address in cache.table[:, :2].flatten()), "rows begin at cache lines"


@pytest.mark.parametrize("dtype", FORMATS)
def test_blocks_leave_and_come_back(dtype: KVDtype) -> None:
    cache = KVRings(SLOTS, max_context=5000, max_rows=64, dtype=dtype)
    blocks = []
    for _ in range(5):
        put(cache, 64)
        blocks.append(cache.export(cache.length // 64 - 1))
    assert {len(block) for block in blocks} == {block_bytes(SLOTS, dtype)}
    again = KVRings(SLOTS, max_context=5000, max_rows=64, dtype=dtype)
    again.restore(blocks)
    check(again)
    put(again, 30)
    check(again)
    other = KVRings(SLOTS, max_context=5000, max_rows=64, dtype="int8" if dtype == "float16" else "float16")
    with pytest.raises(ValueError, match="a block has"):
        other.restore(blocks)


def test_rolling_back_behind_the_ring_is_refused() -> None:
    cache = KVRings(SLOTS, max_context=5000, max_rows=64)
    for _ in range(10):
        put(cache, 64)
    with pytest.raises(ValueError, match="the ring"):
        cache.truncate(100)
    cache.truncate(cache.length - 50)
    check(cache)
    with pytest.raises(ValueError, match="the ring"):
        cache.truncate(cache.length - 80)  # the rows that were overwritten once stay lost


def test_limits() -> None:
    cache = KVRings(SLOTS, max_context=100, max_rows=64)
    with pytest.raises(ValueError, match="made for 64"):
        cache.reserve(65)
    put(cache, 64)
    with pytest.raises(ContextLengthError, match="context of 100"):
        cache.reserve(37)
    put(cache, 36)
    check(cache)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate(101)
    assert cache.nbytes == sum(array.nbytes for array in cache.arrays)
    assert np.all(cache.table[:, 2] % 64 == 0)
