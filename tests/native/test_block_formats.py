"""Block formats: integer products in groups, one float chain, the same bits for any rows, threads, instruction set."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import numpy as np
import pytest

from geminate.backends.base import Backend
from geminate.backends.cpu.program import NativeBackend, _native, supported_isas
from geminate.backends.reference.blocks import fused
from geminate.backends.reference.program import ReferenceBackend
from geminate.families.registry import load_target_config
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.table import BLOCK_FORMATS, FORMATS, WeightFormat
from geminate.loading.compile import compile_target
from geminate.plan import nodes as p
from geminate.tools.bench.random_weights import RandomStore
from geminate.weights.store import WeightStore
from support.blocks import random_matrix, random_rows
from support.fabricate import text_settings
from support.packed import pack_matrix
from support.passes import logits_in_pieces
from support.products import VOCAB, embedding, logits, plan

ISAS = supported_isas()
NAMES = sorted(BLOCK_FORMATS)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def nearest(value: Fraction) -> np.float32:
    """The float32 nearest to a number, ties to even."""
    near = np.float32(float(value))
    around = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - value), int(f.view(np.uint32)) & 1))


def test_a_fused_multiply_add_is_rounded_once() -> None:
    g = np.random.default_rng(0)
    a, b, c = (g.standard_normal(3000).astype(np.float32) for _ in range(3))
    c[::3] = (-a * b)[::3]  # cancellation
    c[1::3] *= np.float32(2**-24)  # ties nearly
    want = [
        nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)
    ]
    assert np.array_equal(fused(a, b, c), np.array(want, np.float32))


@pytest.mark.parametrize("fmt", NAMES)
def test_the_reference_is_the_textbook_product(fmt: WeightFormat) -> None:
    """Python's integers and fractions, and one rounding at each step that the contract names."""
    k, blocks = 512, BLOCK_FORMATS[fmt]
    w, rows = random_matrix(fmt, 5, k), embedding(k)
    got = logits(ReferenceBackend(), plan(k, [(w, 1.0)], rows), [0, 1, 2, 3])
    codes = w.layout.unpack(w.planes, w.n, w.k)
    assert codes.scales is not None
    whole = blocks.integers(codes.values.view(np.int8))
    steps, minima = blocks.steps(codes.scales.view(np.uint16))
    table = pack_matrix(rows, "bf16").dequantized()
    for r in range(4):
        for n in range(w.n):
            total = Fraction(0)
            for g in range(k // 32):
                x = table[r, 32 * g : 32 * g + 32]
                amax = np.abs(x).max()
                scale = np.float32(amax / np.float32(127))
                inverse = np.float32(np.float32(127) / amax) if amax else np.float32(0)
                seen = [round(float(np.float32(v * inverse))) for v in x]
                for at in range(0, 32, blocks.part):
                    sums = sum(int(whole[n, 32 * g + j]) * seen[j] for j in range(at, at + blocks.part))
                    step = np.float32(steps[n, (32 * g + at) // blocks.part] * scale)
                    total = Fraction(float(nearest(Fraction(sums) * Fraction(float(step)) + total)))
                if minima is not None:
                    minus = np.float32(-(scale * np.float32(sum(seen))))
                    total = Fraction(float(nearest(Fraction(float(minima[n, g])) * Fraction(float(minus)) + total)))
            assert float(got[r, n]) == float(total), (r, n)


@pytest.mark.parametrize("fmt", NAMES)
@pytest.mark.parametrize("blocks", [1, 9])
def test_the_same_bits_as_the_reference_everywhere(fmt: WeightFormat, blocks: int) -> None:
    k = blocks * BLOCK_FORMATS[fmt].columns
    outputs = [(random_matrix(fmt, n, k, n), scale) for n, scale in ((37, 1.0), (16, 3.0))]
    made = plan(k, outputs, embedding(k))
    ids = [int(i) for i in np.random.default_rng(1).integers(0, VOCAB, 31)] + [1, 2]
    want = logits(ReferenceBackend(), made, ids)
    assert np.isfinite(want).all() and want.any()
    for isa in ISAS:
        for threads in (1, 2):
            backend = NativeBackend(threads, isa)
            for rows in (1, 2, 3, 5, 7, 8, 9, 33):
                got = np.concatenate([logits(backend, made, ids[at : at + rows]) for at in range(0, len(ids), rows)])
                assert same_bits(got, want), (isa, threads, rows)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", NAMES)
def test_any_number_of_rows(isa: str, fmt: WeightFormat) -> None:
    """1 to 33 rows, the last ones in pieces that read weights for several panels of them."""
    k = 2048
    made = plan(k, [(random_matrix(fmt, 150, k), 1.0)], embedding(k))
    ids = [int(i) for i in np.random.default_rng(2).integers(0, VOCAB, 33)]
    alone = np.concatenate([logits(NativeBackend(1, isa), made, [i]) for i in ids])
    backend = NativeBackend(2, isa)
    for rows in range(1, 34):
        assert same_bits(logits(backend, made, ids[:rows]), alone[:rows]), rows


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", NAMES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_are_exact(isa: str, fmt: WeightFormat, sign: int) -> None:
    """The code of the largest size against the largest activations."""
    k, row = 256, FORMATS[fmt]
    assert row.blocks is not None
    for extreme in (row.lowest, row.highest):
        codes = np.full((17, k), extreme, np.int8)
        w = random_matrix(fmt, 17, k)
        parts = w.layout.unpack(w.planes, 17, k)
        w = PackedMatrix(
            format=fmt,
            n=17,
            k=k,
            planes=w.layout.pack(type(parts)(values=codes, scales=parts.scales)),
            layout=w.layout,
        )
        made = plan(k, [(w, 1.0)], np.full((VOCAB, k), sign * 512, np.float32))
        assert same_bits(logits(NativeBackend(1, isa), made, [0] * 5), logits(ReferenceBackend(), made, [0] * 5))


@pytest.mark.parametrize("fmt", NAMES)
def test_the_error_is_that_of_the_activations(fmt: WeightFormat) -> None:
    """Against the product of the dequantized weights: half a step of each activation times its weight, at most."""
    k = 1536
    w, rows = random_matrix(fmt, 64, k), embedding(k)
    x = pack_matrix(rows, "bf16").dequantized()[:8].astype(np.float64)
    wide = w.dequantized().astype(np.float64)
    got = logits(NativeBackend(2), plan(k, [(w, 1.0)], rows), list(range(8)))
    step = np.abs(x.reshape(8, -1, 32)).max(axis=-1, keepdims=True) / 127
    bound = (np.broadcast_to(step / 2, (8, k // 32, 32)).reshape(8, k)) @ np.abs(wide).T
    # Codes that are offset by a minimum add the roundings of two sums that nearly cancel.
    assert (np.abs(got - x @ wide.T) <= bound * 1.01 + 1e-4 * np.abs(x @ wide.T).max()).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", NAMES)
def test_rows_of_tables(isa: str, fmt: WeightFormat) -> None:
    """Embeddings out of tiles, whole rows and columns of stored blocks."""
    width = 2 * BLOCK_FORMATS[fmt].columns
    column, part = width // 2 - 7, 20
    table = RowTable(format=fmt, rows=VOCAB, width=width, planes={"codes": random_rows(fmt, VOCAB, width)})
    tiles = random_matrix(fmt, VOCAB, width, 3)
    nodes: list[p.Node] = [
        p.Embed(out="a", table=table, scale=1.5),
        p.RowLookup(out="b", table=table, scale=0.25, column=column),
        p.Embed(out="c", table=tiles, scale=1.5),
        p.Concat(a="a", b="b", out="ab"),
        p.Concat(a="ab", b="c", out="abc"),
        p.GatherRows(x="abc"),
        p.AddScaled(a="abc", b="abc", out="logits", scale=0.5),
        p.AddScaled(a="abc", b="abc", out="hidden", scale=0.5),
    ]
    whole = 2 * width + part
    widths = {"a": width, "b": part, "c": width, "ab": width + part, "abc": whole, "logits": whole, "hidden": whole}
    made = p.Plan(widths=widths, nodes=tuple(nodes), ropes=(), hidden="hidden", logits="logits", slots=1)
    ids = [0, 39, 7, 7]
    got = logits(NativeBackend(1, isa), made, ids)
    wide = table.dequantized()[ids]
    columns = wide[:, column : column + part] * np.float32(0.25)
    parts = [wide * np.float32(1.5), columns, tiles.dequantized()[ids] * np.float32(1.5)]
    assert np.array_equal(got, np.concatenate(parts, axis=1))
    assert np.array_equal(logits(ReferenceBackend(), made, ids), got)


@pytest.mark.parametrize(("up", "down"), [("q4_k", "q5_0"), ("q4_k", "int8"), ("q6_k", "iq4_nl"), ("bf16", "q5_1")])
def test_experts_whose_halves_have_different_formats(up: WeightFormat, down: WeightFormat) -> None:
    """Down projections whose rows fill no blocks of 256 come in another format in real files."""
    experts, hidden, inner = 4, 256, 96
    g = np.random.default_rng(6)

    def stack(fmt: WeightFormat, n: int, k: int) -> PackedMatrix:
        if fmt in BLOCK_FORMATS:
            return random_matrix(fmt, n, k, 7, experts)
        return pack_matrix((g.standard_normal((experts, n, k)) * 0.05).astype(np.float32), fmt)

    node = p.Experts(
        x="x",
        scores="scores",
        out="y",
        gate_up=stack(up, 2 * inner, hidden),
        down=stack(down, hidden, inner),
        top_k=2,
        per_expert_scale=np.ones(experts, np.float32),
    )
    router = pack_matrix(g.standard_normal((experts, hidden)).astype(np.float32), "bf16")
    nodes: list[p.Node] = [
        p.Embed(out="x", table=pack_matrix(embedding(hidden, 0.5), "bf16"), scale=1.0),
        p.Linear(x="x", out="scores", w=router, scale=1.0),
        node,
        p.GatherRows(x="y"),
        p.AddScaled(a="y", b="y", out="logits", scale=0.5),
        p.AddScaled(a="y", b="y", out="hidden", scale=0.5),
    ]
    widths = {"x": hidden, "scores": experts, "y": hidden, "logits": hidden, "hidden": hidden}
    made = p.Plan(widths=widths, nodes=tuple(nodes), ropes=(), hidden="hidden", logits="logits", slots=1)
    ids = [0, 3, 4, 5, 6, 7, 8, 9, 10]
    want = logits(NativeBackend(1, ISAS[-1]), made, ids)
    for isa in ISAS:
        assert same_bits(logits(NativeBackend(2, isa), made, ids), want)
        assert same_bits(np.concatenate([logits(NativeBackend(1, isa), made, [i]) for i in ids]), want)
    near = logits(ReferenceBackend(), made, ids)
    assert np.abs(near - want).max() < 0.03 * np.abs(want).max()


def test_a_model_of_the_published_mix() -> None:
    """All formats of a Q4_K_M file in one model: one result whatever rows, threads and instruction set."""
    changes = {"hidden_size": 256, "intermediate_size": 288, "hidden_size_per_layer_input": 32, "head_dim": 64}
    settings = text_settings("E2B") | changes | {"global_head_dim": 128, "model_type": "gemma4_text"}
    config = load_target_config(settings)
    store = cast(WeightStore, RandomStore(config, "q4_k_m"))
    ids = np.random.default_rng(8).integers(3, config.vocab_size, 40).astype(np.int32)

    def run(backend: Backend, sizes: list[int]) -> np.ndarray:
        return logits_in_pieces(compile_target(config, store, backend, max_rows=16), ids, sizes)

    plan_ = compile_target(config, store, NativeBackend(1), max_rows=1).plan
    assert {n.w.format for n in plan_.nodes if isinstance(n, p.Linear)} == {"int8", "q4_k", "q5_0", "q5_k", "q6_k"}
    want = run(NativeBackend(1, ISAS[-1]), [1])
    assert np.isfinite(want).all() and len(np.unique(want.argmax(axis=1))) > 1
    for isa in ISAS:
        for threads, sizes in ((1, [5]), (2, [8]), (2, [3, 1, 16])):
            assert same_bits(run(NativeBackend(threads, isa), sizes), want), (isa, threads, sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros(4095, np.uint8)}, r"data has 4095 values, expected 2048 for q4_k weights \[1, 16, 256\]"),
        ({"scales": None}, "scales is None, but q4_k weights need 160"),
        ({"scales": np.zeros(128, np.uint16)}, "scales has 128 values, expected 160"),
        ({"input_scale": 1.0}, "input_scale is 1, but q4_k weights have none"),
    ],
)
def test_unusable_matrices_are_refused(changes: dict[str, object], message: str) -> None:
    given = {"format": "q4_k", "n": 16, "k": 256, "stack": 1, "data": np.zeros(2048, np.uint8)}
    given |= {"scales": np.zeros(160, np.uint16), "row_scales": None}
    assert _native.Matrix(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        _native.Matrix(**(given | changes))  # type: ignore[arg-type]


def test_unusable_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="width is 128, but q6_k blocks have 256 columns"):
        _native.RowTable("q6_k", 1, 128, np.zeros(105, np.uint8), None, None)
    with pytest.raises(ValueError, match="data has 209 values, expected 210 for q6_k rows"):
        _native.RowTable("q6_k", 1, 256, np.zeros(209, np.uint8), None, None)
