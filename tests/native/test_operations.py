"""Every operation: native against the NumPy reference, and bit for bit alike for any number of rows and threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from geminate.backends.cpu.program import NativeBackend, _native, supported_isas
from geminate.backends.kv_rings import KVRings
from geminate.backends.reference.program import ReferenceBackend
from geminate.decoding import noise as rng
from geminate.decoding.draft_rule import DraftRule, choose_draft_token
from geminate.errors import BackendError
from geminate.formats.matrix import RowTable
from geminate.kv.store import SlotSpec
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from support import packed
from support.packed import pack_matrix

WIDTH, VOCAB, MOST = 77, 96, 33
ISAS = supported_isas()
FORMATS = ("bf16", "int8", "int4")
ROW_FORMATS = ("q2r", "q4r", "q8r")  # more of them in test_row_formats.py
G = np.random.default_rng(0)


def weights(n: int, k: int, fmt: str, stack: int = 0):
    shape = (stack, n, k) if stack else (n, k)
    return pack_matrix((G.standard_normal(shape) * k**-0.5).astype(np.float32), fmt)  # type: ignore[arg-type]


TABLE = {fmt: weights(VOCAB, WIDTH, fmt) for fmt in FORMATS + ROW_FORMATS}


def plan(nodes: list[p.Node], out: str, widths: dict[str, int], ropes: tuple[p.RopeTable, ...] = ()) -> p.Plan:
    """Embedding -> ``x`` -> the nodes -> twice ``out`` as logits, and it again as hidden states, of all wanted rows."""
    width = widths.get(out, WIDTH)
    return p.Plan(
        widths={"x": WIDTH, "hidden": width, "logits": width, **widths},
        nodes=(
            p.Embed(out="x", table=TABLE["bf16"], scale=3.0),
            *nodes,
            p.GatherRows(x=out),
            p.AddScaled(a=out, b=out, out="logits"),
            p.AddScaled(a=out, b=out, out="hidden", scale=0.5),
        ),
        ropes=ropes,
        hidden="hidden",
        logits="logits",
        slots=1,
    )


def rope_table() -> p.RopeTable:
    return p.RopeTable((10000.0 ** -(np.arange(5) / 10)).astype(np.float32), 20)


def attention(window: int, heads: int = 6, kv: int = 2) -> tuple[list[p.Node], dict[str, int]]:
    dim = 20
    nodes: list[p.Node] = [
        p.Linear(x="x", out="q", w=weights(heads * dim, WIDTH, "bf16")),
        p.Linear(x="x", out="k", w=weights(kv * dim, WIDTH, "bf16")),
        p.Linear(x="x", out="v", w=weights(kv * dim, WIDTH, "bf16")),
        p.Rope(x="q", groups=heads, rope=0),
        p.Rope(x="k", groups=kv, rope=0),
        p.KvStore(k="k", v="v", slot=0),
        p.Attention(q="q", out="o", slot=0, heads=heads, kv_heads=kv, head_dim=dim, window=window),
    ]
    return nodes, {"q": heads * dim, "k": kv * dim, "v": kv * dim, "o": heads * dim}


def experts(fmt: str) -> p.Plan:
    e, inner, hidden = 7, 24, WIDTH
    nodes: list[p.Node] = [
        p.Linear(x="x", out="s", w=weights(e, WIDTH, "bf16")),
        p.Experts(
            x="x",
            scores="s",
            out="o",
            gate_up=weights(2 * inner, hidden, fmt, e),
            down=weights(hidden, inner, fmt, e),
            top_k=3,
            per_expert_scale=(1 + 0.1 * G.standard_normal(e)).astype(np.float32),
        ),
    ]
    return plan(nodes, "o", {"s": e, "o": hidden})


def row_table(fmt: str) -> RowTable:
    return packed.row_table(G.standard_normal((VOCAB, 50)).astype(np.float32), fmt)  # type: ignore[arg-type]


def cases() -> dict[str, Callable[[], p.Plan]]:
    vector = (1 + 0.3 * G.standard_normal(WIDTH)).astype(np.float32)
    made: dict[str, Callable[[], p.Plan]] = {
        "norm": lambda: plan([p.RmsNorm(x="x", out="o", weight=vector, eps=1e-6)], "o", {"o": WIDTH}),
        "norm in groups": lambda: plan([p.RmsNorm(x="x", out="o", weight=None, eps=1e-6, groups=7)], "o", {"o": WIDTH}),
        "add": lambda: plan([p.AddScaled(a="x", b="x", out="o", scale=0.7)], "o", {"o": WIDTH}),
        "gelu": lambda: plan(
            [p.Concat(a="x", b="x", out="u"), p.GeluMul(gate="x", up="u", out="o", up_offset=9)],
            "o",
            {"u": 2 * WIDTH, "o": WIDTH},
        ),
        "softcap": lambda: plan(
            [p.AddScaled(a="x", b="x", out="o", scale=4.0), p.Softcap(x="o", cap=5.0)], "o", {"o": WIDTH}
        ),
        "capped linear": lambda: plan(
            [p.Linear(x="x", out="o", w=weights(90, WIDTH, "int8")), p.Softcap(x="o", cap=0.5)], "o", {"o": 90}
        ),
        "attention": lambda: plan(attention(0)[0], "o", attention(0)[1], (rope_table(),)),
        "sliding attention": lambda: plan(attention(19)[0], "o", attention(19)[1], (rope_table(),)),
        "one kv head": lambda: plan(attention(0, 5, 1)[0], "o", attention(0, 5, 1)[1], (rope_table(),)),
    }
    for fmt in FORMATS:
        for n, k in ((1, WIDTH), (64, WIDTH), (131, WIDTH)):
            made[f"linear {fmt} {n}"] = lambda fmt=fmt, n=n, k=k: plan(
                [p.Linear(x="x", out="o", w=weights(n, k, fmt), scale=0.3)], "o", {"o": n}
            )
        for first in (32, 21):  # at a tile's border, and inside one
            made[f"linear {fmt} from {first}"] = lambda fmt=fmt, first=first: plan(
                [p.Linear(x="x", out="o", w=weights(90, WIDTH, fmt), first=first)], "o", {"o": 37}
            )
        made[f"embed {fmt}"] = lambda fmt=fmt: plan([p.Embed(out="o", table=TABLE[fmt], scale=2.0)], "o", {"o": WIDTH})
        made[f"experts {fmt}"] = lambda fmt=fmt: experts(fmt)
    for fmt in ROW_FORMATS:
        for first in (32, 21):
            made[f"linear {fmt} from {first}"] = lambda fmt=fmt, first=first: plan(
                [p.Linear(x="x", out="o", w=weights(90, WIDTH, fmt), first=first, scale=0.3)], "o", {"o": 37}
            )
        made[f"embed {fmt}"] = lambda fmt=fmt: plan([p.Embed(out="o", table=TABLE[fmt], scale=2.0)], "o", {"o": WIDTH})
    for fmt in ("bf16", "int8"):
        made[f"lookup {fmt}"] = lambda fmt=fmt: plan(
            [p.RowLookup(out="o", table=row_table(fmt), scale=0.5)], "o", {"o": 50}
        )
        made[f"lookup {fmt} from 9"] = lambda fmt=fmt: plan(
            [p.RowLookup(out="o", table=row_table(fmt), scale=0.5, column=9)], "o", {"o": 30}
        )
    return made


CASES = cases()
IDS = np.random.default_rng(1).integers(0, VOCAB, 90).astype(np.int32)


def new_cache(window: int) -> KVRings:
    return KVRings((SlotSpec(kv_heads=2, head_dim=20, window=window),), max_context=4096, max_rows=MOST)


def outputs(program, sizes: list[int], cache: KVRings) -> np.ndarray:
    """All of IDS in passes of the given sizes, over and over."""
    rows, at, turn = [], 0, 0
    while at < len(IDS):
        m = min(sizes[turn % len(sizes)], len(IDS) - at)
        cache.reserve(m)
        rows.append(program.run(Batch.of([Rows(cache=cache, ids=IDS[at : at + m], wanted=m)]))[1])
        cache.advance(m)
        at, turn = at + m, turn + 1
    return np.concatenate(rows)


def cache_of(made: p.Plan) -> KVRings:
    nodes = [n for n in made.nodes if isinstance(n, p.Attention)]
    kv = nodes[0].kv_heads if nodes else 2
    window = nodes[0].window if nodes else 0
    return KVRings((SlotSpec(kv_heads=kv, head_dim=20, window=window),), max_context=4096, max_rows=MOST)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
def test_rows_threads_and_reference(name: str, isa: str) -> None:
    made = CASES[name]()
    one = outputs(NativeBackend(1, isa).compile(made, max_rows=MOST), [1], cache_of(made))
    reference = outputs(ReferenceBackend().compile(made, max_rows=MOST), [9], cache_of(made))
    scale = np.abs(reference).max()
    assert scale > 0
    # Quantized activations may round apart where the input differs in its last bit: one code of 127.
    # Likewise keys and values in float16.
    loose = 2e-2 if "experts int" in name else 6e-4 if name.startswith(("attention", "sliding", "one kv")) else 2e-5
    assert np.abs(one - reference).max() <= loose * scale
    for threads in (1, 2, 3, 4):
        backend = NativeBackend(threads, isa)
        sizes = [[m] for m in range(2, MOST + 1, 1 if threads == 2 else 7)] + [[3, 1, 8, 5, 17]]
        program = backend.compile(made, max_rows=MOST)
        for schedule in sizes:
            assert np.array_equal(outputs(program, schedule, cache_of(made)), one), (threads, schedule)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("isa", ISAS)
def test_long_reductions_in_parts(isa: str, fmt: str) -> None:
    """Longer than the columns whose activations stay near: many rows are multiplied part by part, to the same bits."""
    nodes: list[p.Node] = [
        p.Linear(x="x", out="w", w=weights(1700, WIDTH, "bf16")),
        p.Linear(x="w", out="o", w=weights(37, 1700, fmt)),
    ]
    made = plan(nodes, "o", {"w": 1700, "o": 37})
    program = NativeBackend(2, isa).compile(made, max_rows=MOST)
    assert np.array_equal(outputs(program, [MOST], cache_of(made)), outputs(program, [8], cache_of(made)))


@pytest.mark.parametrize("name", CASES)
def test_instruction_sets_agree(name: str) -> None:
    made = CASES[name]()
    results = [outputs(NativeBackend(2, isa).compile(made, max_rows=MOST), [8], cache_of(made)) for isa in ISAS]
    for other in results[1:]:
        assert np.array_equal(other, results[0])


def test_sequences_in_one_pass_do_not_meet() -> None:
    nodes, widths = attention(19)
    made = plan(nodes, "o", widths, (rope_table(),))
    program = NativeBackend(2).compile(made, max_rows=MOST)
    alone = outputs(program, [10], cache_of(made))
    caches = [cache_of(made) for _ in range(3)]
    for i, cache in enumerate(caches):  # the third starts from other tokens
        cache.reserve(11)
        start = IDS[:10] if i < 2 else IDS[40:50]
        program.run(Batch.of([Rows(cache=cache, ids=start)]))
        cache.advance(10)
    _, out = program.run(Batch.of([Rows(cache=cache, ids=[int(IDS[10])], wanted=1) for cache in caches]))
    assert np.array_equal(out[0], alone[10]) and np.array_equal(out[1], alone[10])
    assert not np.array_equal(out[2], alone[10])


def test_stale_rows_are_never_read() -> None:
    """NaN everywhere a row must not look: past itself, and outside its window."""
    nodes, widths = attention(19)
    made = plan(nodes, "o", widths, (rope_table(),))
    program = NativeBackend(2).compile(made, max_rows=MOST)
    clean = outputs(program, [5], cache_of(made))
    cache = cache_of(made)
    for array in cache.arrays:
        array[:] = np.nan
    assert np.array_equal(outputs(program, [5], cache), clean)


def test_noise_is_the_same_function_in_both_languages() -> None:
    for seed, choice, position in ((0, 0, 0), (7, 0, 12), (2**63 - 1, 3, 131071)):
        key = rng.stream_key(seed, choice, position)
        assert _native.stream_key(seed, choice, position) == key
        ids = np.array([0, 1, 105, 262143])
        assert [_native.uniform(key, int(i)) for i in ids] == rng.uniform(key, ids).tolist()


@pytest.mark.parametrize(
    "rule",
    [
        DraftRule(),
        DraftRule(temperature=0.8, seed=3),
        DraftRule(temperature=1.3, top_k=5, seed=4, choice=2),
        DraftRule(temperature=1.0, top_p=0.7, min_p=0.05, seed=5),
    ],
)
def test_guesses(rule: DraftRule) -> None:
    """A drafter that ignores its input: the k guesses are the reference's choice from the same logits."""
    made = p.Plan(
        widths={"hidden_in": WIDTH, "e": WIDTH, "pair": 2 * WIDTH, "h": WIDTH, "logits": VOCAB},
        nodes=(
            p.Embed(out="e", table=TABLE["bf16"], scale=1.0),
            p.Concat(a="e", b="hidden_in", out="pair"),
            p.Linear(x="pair", out="h", w=weights(WIDTH, 2 * WIDTH, "int8")),
            p.Linear(x="h", out="logits", w=TABLE["int8"], scale=6.0),
        ),
        ropes=(),
        hidden="h",
        logits="logits",
    )
    program = NativeBackend(1).compile(made, max_rows=1)
    hidden = G.standard_normal(WIDTH).astype(np.float32)
    cache = new_cache(0)
    ids, confidence = program.draft(5, hidden, 9, 9, cache, 6, rule)
    token, state = 5, hidden
    for j in range(6):
        candidates, logits, state = program.draft_step(token, state, 9, 9, cache)
        token = int(candidates[choose_draft_token(candidates, logits, rule, 10 + j)])
        assert ids[j] == token
        e = np.exp(logits.astype(np.float64) - logits.max())
        assert confidence[j] == pytest.approx(e[token] / e.sum(), rel=1e-5)


def test_arguments_are_checked() -> None:
    made = CASES["add"]()
    program = NativeBackend(1).compile(made, max_rows=4)
    cache = new_cache(0)
    cache.reserve(1)
    for bad in (VOCAB, -1):
        with pytest.raises(ValueError, match="vocabulary"):
            program.run(Batch.of([Rows(cache=cache, ids=[bad], wanted=1)]))
    with pytest.raises(ValueError, match="number of rows"):
        program.run(Batch.of([Rows(cache=cache, ids=[0] * 5)]))
    good = Batch.of([Rows(cache=cache, ids=[0], wanted=1)])
    with pytest.raises(ValueError, match="sequence"):
        program.run(replace(good, sequences=good.sequences + np.int32(1)))
    with pytest.raises(BackendError, match="embeddings"):
        program.run(replace(good, embeddings={0: np.zeros(4, np.float32)}))


def test_two_python_threads_share_a_program() -> None:
    """The binding lets go of the GIL: passes of one program must still take turns."""
    from concurrent.futures import ThreadPoolExecutor

    made = CASES["linear int8 131"]()
    program = NativeBackend(2).compile(made, max_rows=MOST)
    want = {m: outputs(program, [m], cache_of(made)) for m in (1, 5)}

    def work(m: int) -> bool:
        return all(np.array_equal(outputs(program, [m], cache_of(made)), want[m]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [1, 5, 1, 5]))
