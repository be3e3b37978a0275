"""Attention over both formats of keys and values: against the reference, and the same bits however it is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geminate.backends.cpu.program import NativeBackend, _native, supported_isas
from geminate.backends.kv_planes import hadamard, hadamard_block
from geminate.backends.kv_rings import KVRings
from geminate.backends.reference.program import ReferenceBackend
from geminate.errors import BackendError
from geminate.kv.store import ARITHMETIC, KVDtype, SlotSpec
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from support.packed import pack_matrix

VOCAB, WIDTH, MOST = 64, 48, 70
FORMATS: tuple[KVDtype, ...] = ("float16", "int8")
# (heads, kv_heads, head_dim): powers of two, none, and more heads than a block of registers takes.
SHAPES = ((8, 1, 64), (4, 4, 80), (6, 2, 96), (3, 1, 20), (16, 1, 256), (2, 1, 512), (5, 1, 35))
IDS = np.random.default_rng(1).integers(0, VOCAB, 4000).astype(np.int32)


def plan(heads: int, kv: int, dim: int, window: int = 0, include_self: bool = True) -> p.Plan:
    """Embedding, projections, attention; the logits are what it reads."""
    g = np.random.default_rng(0)

    def weights(n: int):
        return pack_matrix((g.standard_normal((n, WIDTH)) * WIDTH**-0.5).astype(np.float32), "bf16")

    table = pack_matrix(g.standard_normal((VOCAB, WIDTH)).astype(np.float32), "bf16")
    widths = {
        "x": WIDTH,
        "q": heads * dim,
        "k": kv * dim,
        "v": kv * dim,
        "o": heads * dim,
        "hidden": heads * dim,
        "wanted": heads * dim,
    }
    nodes: list[p.Node] = [
        p.Embed(out="x", table=table, scale=1.0),
        p.Linear(x="x", out="q", w=weights(heads * dim), scale=dim**-0.5),
        p.Linear(x="x", out="k", w=weights(kv * dim)),
        p.Linear(x="x", out="v", w=weights(kv * dim)),
    ]
    if include_self:
        nodes.append(p.KvStore(k="k", v="v", slot=0))
    nodes.append(
        p.Attention(
            q="q", out="o", slot=0, heads=heads, kv_heads=kv, head_dim=dim, window=window, include_self=include_self
        )
    )
    nodes.append(p.GatherRows(x="o"))
    for out in ("hidden", "wanted"):
        nodes.append(p.AddScaled(a="o", b="o", out=out, scale=0.5))
    return p.Plan(widths=widths, nodes=tuple(nodes), ropes=(), hidden="hidden", logits="wanted", slots=1)


def cache_for(made: p.Plan, dtype: KVDtype, length: int = 0) -> KVRings:
    """A cache with ``length`` positions of noise, the same in every call."""
    node = next(n for n in made.nodes if isinstance(n, p.Attention))
    spec = SlotSpec(kv_heads=node.kv_heads, head_dim=node.head_dim, window=node.window)
    cache = KVRings((spec,), max_context=8192, max_rows=MOST, dtype=dtype)
    g = np.random.default_rng(5)
    while cache.length < length:
        rows = min(MOST, length - cache.length)
        cache.reserve(rows)
        cache.advance(rows)
    for array in cache.arrays:
        if array.dtype in (np.uint8, np.int8):
            array[:] = g.integers(-127, 128, array.shape).astype(np.int8).view(array.dtype)
            if array.dtype == np.uint8:
                array ^= 128
        else:
            noise = g.standard_normal(array.shape).astype(np.float32)
            array[:] = np.abs(noise) / 100 if array.dtype == np.float32 else noise
    return cache


def outputs(program, cache: KVRings, sizes: list[int], total: int) -> np.ndarray:
    """``total`` rows behind what the cache holds, in passes of the given sizes, over and over."""
    rows, at = [], 0
    while at < total:
        m = min(sizes[len(rows) % len(sizes)], total - at)
        cache.reserve(m)
        rows.append(program.run(Batch.of([Rows(cache=cache, ids=IDS[at : at + m], wanted=m)]))[1])
        cache.advance(m)
        at += m
    return np.concatenate(rows)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [0, 50])
def test_reference_and_instruction_sets(shape: tuple[int, int, int], window: int, dtype: KVDtype) -> None:
    made = plan(*shape, window=window)
    reference = outputs(ReferenceBackend().compile(made, max_rows=MOST), cache_for(made, dtype), [9], 150)
    scale = np.abs(reference).max()
    results = []
    for isa in supported_isas():
        program = NativeBackend(2, isa).compile(made, max_rows=MOST)
        results.append(outputs(program, cache_for(made, dtype), [7, 1, 64], 150))
    # A code of the integers may round apart where its input differs in the last bit.
    assert np.abs(results[0] - reference).max() <= (2e-3 if dtype == "float16" else 2e-2) * scale
    for other in results[1:]:
        assert np.array_equal(other, results[0])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("length", [1010, 2500])
def test_cuts_change_nothing(length: int, isa: str, dtype: KVDtype) -> None:
    """Parts walked in turn by one thread, or apart by several; any number of rows; borders of parts between them."""
    made = plan(4, 1, 256)
    rows = 70 if isa != "scalar" else 20
    one = NativeBackend(1, isa).compile(made, max_rows=MOST)
    want = outputs(one, cache_for(made, dtype, length), [1], rows)
    for threads, sizes in ((1, [8, 3]), (2, [1]), (2, [5]), (2, [3, 1, 64]), (3, [8]), (5, [2])):
        program = NativeBackend(threads, isa).compile(made, max_rows=MOST)
        assert np.array_equal(outputs(program, cache_for(made, dtype, length), sizes, rows), want), (threads, sizes)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_long_context_agrees_with_the_reference(dtype: KVDtype) -> None:
    made = plan(4, 2, 64)
    reference = outputs(ReferenceBackend().compile(made, max_rows=MOST), cache_for(made, dtype, 2500), [3], 3)
    got = outputs(NativeBackend(2).compile(made, max_rows=MOST), cache_for(made, dtype, 2500), [3], 3)
    assert np.abs(got - reference).max() <= (1e-5 if dtype == "float16" else 1e-2) * np.abs(reference).max()


@pytest.mark.parametrize("dtype", FORMATS)
def test_many_sequences_of_unequal_length(dtype: KVDtype) -> None:
    """Short and long contexts and prompt rows in one pass: each as if alone, with few sequences and with many."""
    made = plan(8, 1, 128)
    program = NativeBackend(2).compile(made, max_rows=MOST)
    lengths = [0, 3, 1023, 1024, 2100, 64, 700, 3000]
    for lengths_now in (lengths[:3], lengths * 3):
        caches = [cache_for(made, dtype, n) for n in lengths_now]
        for cache in caches:
            cache.reserve(2)
        parts = [Rows(cache=c, ids=IDS[i : i + 2], wanted=2) for i, c in enumerate(caches)]
        _, together = program.run(Batch.of(parts))
        for i, part in enumerate(parts):
            alone = program.run(Batch.of([part]))[1]
            assert np.array_equal(together[2 * i : 2 * i + 2], alone), lengths_now[i]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("window", [0, 19])
def test_what_others_left_is_never_read(window: int, dtype: KVDtype) -> None:
    """NaN, infinite scales and any codes where no row may look: past itself, and outside its window."""
    made = plan(6, 2, 20, window=window)
    program = NativeBackend(2).compile(made, max_rows=MOST)
    clean = outputs(program, cache_for(made, dtype), [5], 150)
    cache = cache_for(made, dtype)
    for array in cache.arrays:
        array[:] = 255 if array.dtype == np.uint8 else 127 if array.dtype == np.int8 else np.nan
    assert np.array_equal(outputs(program, cache, [5], 150), clean)


@pytest.mark.parametrize("dtype", FORMATS)
def test_rolled_back_rows_leave_nothing(dtype: KVDtype) -> None:
    made = plan(6, 2, 96, window=30)
    program = NativeBackend(2).compile(made, max_rows=MOST)
    want = outputs(program, cache_for(made, dtype), [1], 100)
    cache, got = cache_for(made, dtype), []
    while cache.length < 100:
        before = cache.length
        cache.reserve(5)
        wrong = np.concatenate([IDS[before : before + 2], IDS[2000:2003]])
        got.append(program.run(Batch.of([Rows(cache=cache, ids=wrong, wanted=5)]))[1][:2])
        cache.advance(5)
        cache.truncate(before + 2)
    assert np.array_equal(np.concatenate(got), want)


def test_values_beyond_float16_do_not_reach_rows_before_them() -> None:
    """A masked value counts as 0 * value: it must be finite."""
    made = plan(2, 1, 32)
    huge = next(i for i, n in enumerate(made.nodes) if isinstance(n, p.Linear) and n.out == "v")
    nodes = list(made.nodes)
    nodes[huge] = p.Linear(x="x", out="v", w=nodes[huge].w, scale=1e6)  # type: ignore[union-attr]
    made = replace(made, nodes=tuple(nodes))
    program = NativeBackend(1).compile(made, max_rows=MOST)
    out = outputs(program, cache_for(made, "float16"), [8], 8)
    assert np.isfinite(out).all() and np.array_equal(out, outputs(program, cache_for(made, "float16"), [1], 8))


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_drafter_reads_what_stands_before_it(dtype: KVDtype) -> None:
    """Rows that write nothing, over a long context: the same bits with any number of threads."""
    made = plan(8, 1, 256, include_self=False)
    position = 2300
    results = []
    for threads in (1, 2, 4):
        cache = cache_for(made, dtype, position)
        cache.reserve(1)
        program = NativeBackend(threads).compile(made, max_rows=1)
        results.append(program.run(Batch.of([Rows(cache=cache, ids=IDS[:1], wanted=1)]))[1])
    assert all(np.array_equal(r, results[0]) for r in results)
    cache = cache_for(made, dtype, position)
    cache.reserve(1)
    reference = ReferenceBackend().compile(made, max_rows=1)
    expected = reference.run(Batch.of([Rows(cache=cache, ids=IDS[:1], wanted=1)]))[1]
    assert np.abs(results[0] - expected).max() <= 1e-2 * np.abs(expected).max()


def test_int8_is_close_to_float16() -> None:
    """Outliers in a few dimensions, as real keys have them: the transform spreads them over the head."""
    made = plan(4, 1, 128)
    program = NativeBackend(2).compile(made, max_rows=MOST)
    half, codes = (outputs(program, cache_for(made, dtype), [64], 300) for dtype in FORMATS)
    assert np.abs(codes - half).mean() <= 0.02 * np.abs(half).mean()
    assert not np.array_equal(codes, half)


def test_the_transform_is_its_own_inverse() -> None:
    x = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    turned = hadamard(x)
    assert np.allclose(hadamard(turned) / hadamard_block(96), x, atol=1e-5)
    h = hadamard(np.eye(4, dtype=np.float32))
    assert h.tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


def test_the_number_of_the_arithmetic() -> None:
    assert _native.arithmetic() == ARITHMETIC


def test_unknown_format_is_refused() -> None:
    with pytest.raises(BackendError, match="float16 and int8"):
        NativeBackend(1).new_kv((), max_rows=1, dtype="int4")  # type: ignore[arg-type]
