"""Bounded memory of keys and values: what is leased and kept never passes the bound; what is found is what was kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate.backends.kv_rings import KVRings, RingFactory, block_bytes
from geminate.engine.conversations import Conversations
from geminate.engine.messages import EngineRequest
from geminate.errors import BackendError
from geminate.kv.budget import KVBudget, Lease
from geminate.kv.prefix_tree import ContentSpan
from geminate.kv.store import BLOCK as KEY_TILE
from geminate.kv.store import KVStore, SlotSpec
from geminate.params import SamplingParams

SLOTS = (SlotSpec(kv_heads=2, head_dim=4, window=100), SlotSpec(kv_heads=1, head_dim=8, window=0))
ROWS = 80


def memory(limit: int = 10**9, **more: bool) -> KVBudget:
    return KVBudget(RingFactory(SLOTS, max_rows=ROWS), limit=limit, **more)


def cache_bytes(context: int) -> int:
    return RingFactory(SLOTS, max_rows=ROWS).nbytes(context)


def compute(held: Lease, tokens: list[int], upto: int) -> None:
    """Write rows that depend on the tokens, as passes would."""
    cache = held.cache
    assert isinstance(cache, KVRings)
    while cache.length < upto:
        rows = min(ROWS, upto - cache.length)
        cache.reserve(rows)
        for position in range(cache.length, cache.length + rows):
            for slot, spec in enumerate(cache.slots):
                key, value = (np.full((spec.kv_heads, spec.head_dim), x % 2000) for x in (tokens[position], position))
                cache.write(slot, position, key.astype(np.float32), value.astype(np.float32))
        cache.advance(rows)


def check_rows(cache: KVStore, tokens: list[int]) -> None:
    """All rows that a next pass may look at are those of the tokens."""
    assert isinstance(cache, KVRings)
    for slot, spec in enumerate(cache.slots):
        first = max(0, cache.length - spec.window + 1) if spec.window else 0
        keys, values = cache.rows(slot, first, cache.length)
        assert (keys == (np.array(tokens[first : cache.length]) % 2000)[None, :, None]).all(), spec.window
        assert (values == (np.arange(first, cache.length) % 2000)[None, :, None]).all(), spec.window


def finish(store: KVBudget, tokens: list[int], prompt: int, contents: tuple[ContentSpan, ...] = ()) -> Lease:
    held = store.lease(tokens[:prompt], len(tokens), contents)
    assert held is not None
    for upto in range(held.cache.length, len(tokens) + 1, 50):
        compute(held, tokens, upto)
        store.capture(held, tokens)
    compute(held, tokens, len(tokens))
    store.capture(held, tokens)
    return held


def test_sizes_are_what_is_allocated() -> None:
    for context in (1, 63, 64, 65, 179, 180, 4096):
        cache = KVRings(SLOTS, max_context=context, max_rows=ROWS, whole=True)
        assert cache.nbytes == cache_bytes(context)
        held = cache.nbytes
        while cache.length < context:
            rows = min(ROWS, context - cache.length)
            cache.reserve(rows)
            cache.advance(rows)
        assert cache.nbytes == held, "a whole cache does not grow"


def test_a_prompt_starts_from_the_longest_known_prefix() -> None:
    store = memory()
    tokens = list(range(500))
    store.release(finish(store, tokens, 300))
    assert store.kept == 7 * block_bytes(SLOTS) and store.used == 0
    branch = tokens[:200] + [9] * 100
    held = store.lease(branch, 400)
    assert held is not None and held.cache.length == 192
    check_rows(held.cache, branch)
    assert (store.queries, store.hits) == (600, 192)
    with pytest.raises(ValueError, match="keeps"):
        held.cache.truncate(100)  # a ring that was filled from blocks has nothing older than its window


@pytest.mark.parametrize("length", [KEY_TILE, KEY_TILE + 1, 2 * KEY_TILE, 2 * KEY_TILE + 1])
def test_the_last_token_is_always_computed(length: int) -> None:
    store = memory()
    tokens = list(range(300))
    store.release(finish(store, tokens, 200))
    held = store.lease(tokens[:length], 300)
    assert held is not None and held.cache.length == (length - 1) // KEY_TILE * KEY_TILE


def test_nothing_is_kept_when_asked_so() -> None:
    store = memory(keep_prefixes=False)
    tokens = list(range(300))
    store.release(finish(store, tokens, 200))
    held = store.lease(tokens, 400)
    assert held is not None and held.cache.length == 0 and store.kept == 0


def test_rows_that_were_overwritten_are_not_kept() -> None:
    store = memory()
    tokens = list(range(600))
    held = store.lease(tokens, 600)
    assert held is not None
    compute(held, tokens, 500)  # far past the ring without a capture
    store.capture(held, tokens)
    assert store.kept == 0
    compute(held, tokens, 600)
    store.capture(held, tokens)
    assert store.kept == 0, "no block hangs in the air"


def test_the_oldest_tips_go_first_and_pinned_paths_stay() -> None:
    one = cache_bytes(320)
    block = block_bytes(SLOTS)
    store = memory(one + 6 * block)
    a, b = [1] * 320, [2] * 320
    store.release(finish(store, a, 200))
    assert store.kept == 5 * block
    held = finish(store, b, 200)
    assert store.kept == 6 * block and store.used + store.kept <= store.limit
    assert store.lease(a, 320) is None, "b runs, and there is no second place"
    store.release(held)
    again = store.lease(b, 320)
    assert again is not None and again.cache.length == 256, "b's path was used last"
    check_rows(again.cache, b)
    store.release(again)
    lost = store.lease(a, 320)
    assert lost is not None and lost.cache.length < 256


def test_a_long_prefix_never_blocks_its_own_request() -> None:
    need = cache_bytes(320)
    store = memory(need + 5 * block_bytes(SLOTS))
    tokens = list(range(320))
    store.release(finish(store, tokens, 320))
    store.limit = need + 2 * block_bytes(SLOTS)  # the path and the cache do not fit side by side
    held = store.lease(tokens, 320)
    assert held is not None and held.cache.length == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300), st.booleans()), max_size=40), st.integers(3, 12))
def test_the_bound_holds_and_rows_are_right(moves: list[tuple[int, int, bool]], places: int) -> None:
    """Random branches, lengths and endings: never over the bound, never a wrong row, nothing leaks."""
    store = memory(places * block_bytes(SLOTS) + cache_bytes(320))
    running: list[tuple[Lease, list[int]]] = []
    for branch, cut, ends in moves:
        tokens = [7] * cut + [branch] * (320 - cut)
        held = store.lease(tokens[:-5], 320)
        if held is not None:
            check_rows(held.cache, tokens)
            running.append((held, tokens))
        for other, text in running:
            compute(other, text, min(len(text), other.cache.length + 60))
            store.capture(other, text)
            check_rows(other.cache, text)
        assert store.used + store.kept <= store.limit
        if ends and running:
            store.release(running.pop(0)[0])
    for held, _ in running:
        store.release(held)
        store.release(held)  # twice is once
    assert store.used == 0
    blocks = store.kept // block_bytes(SLOTS)
    assert blocks == len(store._tree._order)
    assert store._make_room(store.limit), "everything can be forgotten when nothing runs"
    assert store.kept == 0 and not store._tree._order


def image(start: int, stop: int, digest: bytes) -> tuple[ContentSpan, ...]:
    return (ContentSpan(start=start, stop=stop, digest=digest),)


@pytest.mark.parametrize("span", [(10, 40), (100, 140), (0, 64), (60, 70)])
def test_equal_placeholders_with_other_content_share_nothing_from_there(span: tuple[int, int]) -> None:
    """Two images behind the same ids: blocks before the first are shared, none from its block on."""
    store = memory()
    tokens = list(range(300))
    store.release(finish(store, tokens, 200, image(*span, b"a cat")))
    before = span[0] // KEY_TILE * KEY_TILE
    for contents, expected in (
        (image(*span, b"a cat"), 256),
        (image(*span, b"a dog"), before),
        ((), before),
        (image(span[0], span[1] + 1, b"a cat"), before),
        (image(*span, b"a cat") + image(280, 290, b"late"), 256),
    ):
        held = store.lease(tokens, 400, contents)
        assert held is not None and held.cache.length == expected, contents
        store.release(held)


def test_conversations_compare_content_too() -> None:
    factory = RingFactory(SLOTS, max_rows=ROWS)
    tokens = list(range(50))
    for digest, expected in ((b"a cat", 49), (b"a dog", 20)):
        kept = Conversations(lambda: factory.new(400))
        cache = factory.new(400)
        cache.reserve(50)
        cache.advance(50)
        kept.keep("talk", cache, [*tokens, 7], image(20, 30, b"a cat"))
        request = EngineRequest(
            request_id="r",
            prompt_ids=tokens,
            sampling=SamplingParams().resolved(),
            conversation="talk",
            contents=image(20, 30, digest),
        )
        assert kept.take(request, tokens).length == expected


def test_a_block_of_another_model_is_refused() -> None:
    cache = RingFactory(SLOTS, max_rows=ROWS).new(400)
    with pytest.raises(ValueError, match="a block has 5 bytes"):
        cache.restore([b"12345"])
    with pytest.raises(BackendError, match="float16 and int8 are"):
        RingFactory(SLOTS, max_rows=ROWS, dtype="int4")  # type: ignore[arg-type]
