"""The KV cache: growth, rings, rollback."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate.backends.kv_rings import KVRings
from geminate.errors import ContextLengthError
from geminate.kv.store import SlotSpec

SLOTS = (SlotSpec(kv_heads=2, head_dim=4, window=10), SlotSpec(kv_heads=1, head_dim=8, window=0))


def put(cache: KVRings, rows: int) -> None:
    """Write each position's number into its rows, as a pass would."""
    cache.reserve(rows)
    for position in range(cache.length, cache.length + rows):
        for k, v in zip(cache.keys, cache.values, strict=True):
            k[:, position % k.shape[1]] = position % 2048
            v[:, position % v.shape[1]] = position % 2048
    cache.advance(rows)


def check(cache: KVRings) -> None:
    """Every position a next row may look at is where it belongs, with its own content."""
    for k, spec in zip(cache.keys, cache.slots, strict=True):
        first = max(0, cache.length - spec.window + 1) if spec.window else 0
        for position in range(first, cache.length):
            row = k[:, position % k.shape[1]]
            assert (row == position % 2048).all(), f"position {position} of a window-{spec.window} slot was overwritten"


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


def test_growth_keeps_content_and_updates_the_table() -> None:
    cache = KVRings(SLOTS, max_context=5000, max_rows=64)
    for _ in range(60):
        put(cache, 64)
    check(cache)
    assert cache.table[1, 2] == cache.keys[1].shape[1] >= 60 * 64
    assert cache.table[1, 0] == cache.keys[1].ctypes.data
    assert cache.keys[0].shape[1] < 200, "a ring does not grow"


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
    assert cache.nbytes == sum(a.nbytes for a in (*cache.keys, *cache.values))
    assert np.all(cache.table[:, 2] % 64 == 0)
