"""Row formats: products are exact integer sums, the same bits on every instruction set, for any rows and threads."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from geminate.backends import select
from geminate.backends.base import Backend
from geminate.backends.cpu.program import NativeBackend, _native, supported_isas
from geminate.backends.reference.program import ReferenceBackend
from geminate.families.registry import load_target_config
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.row_codes import pack_codes
from geminate.formats.table import FORMATS, MOST_COLUMNS, ROW_FORMATS, Codes
from geminate.loading.compile import compile_target
from geminate.plan import nodes as p
from geminate.tools.bench.random_weights import RandomStore
from geminate.weights.store import WeightStore
from support.fabricate import text_settings
from support.packed import pack_matrix
from support.passes import logits_in_pieces
from support.products import VOCAB, embedding, logits, plan

ISAS = supported_isas()
G = np.random.default_rng(5)


def matrix(n: int, k: int, bits: int, *, input_scale: float = 0.0, output_scale: float = 0.0) -> PackedMatrix:
    """Random codes of the whole range and random scales."""
    fmt = ROW_FORMATS[bits]
    row, layout = FORMATS[fmt], select.layout(fmt)
    codes = G.integers(row.lowest, row.highest + 1, (n, k)).astype(np.int8)
    scales = G.random((n, 1), dtype=np.float32) * np.float32(0.01)
    return PackedMatrix(
        format=fmt,
        n=n,
        k=k,
        planes=layout.pack(Codes(values=codes, scales=scales)),
        layout=layout,
        input_scale=input_scale,
        output_scale=output_scale,
    )


@pytest.mark.parametrize("bits", sorted(ROW_FORMATS))
@pytest.mark.parametrize("k", [1, 63, 200])
def test_the_same_bits_as_the_reference_everywhere(bits: int, k: int) -> None:
    made = plan(
        k,
        [
            (matrix(37, k, bits, input_scale=i, output_scale=o), s)
            for i in (0.0, 0.02)
            for o in (0.0, 0.003)
            for s in (1, 3)
        ],
        embedding(k),
    )
    ids = [int(i) for i in G.integers(0, VOCAB, 19)] + [1, 2]
    want = logits(ReferenceBackend(), made, ids)
    assert np.isfinite(want).all() and want.any()
    for isa in ISAS:
        for threads in (1, 2):
            backend = NativeBackend(threads, isa)
            for rows in (1, 2, 3, 5, 7, 8, 9, 21):
                got = np.concatenate([logits(backend, made, ids[at : at + rows]) for at in range(0, len(ids), rows)])
                assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), (isa, threads, rows)


@pytest.mark.parametrize("bits", sorted(ROW_FORMATS))
def test_the_reference_is_the_textbook_product(bits: int) -> None:
    """Python's integers, and one rounding at each step that the contract names."""
    k, scale, step = 150, np.float32(0.02), np.float32(0.05)
    w, rows = matrix(11, k, bits, input_scale=float(scale), output_scale=float(step)), embedding(k)
    got = logits(ReferenceBackend(), plan(k, [(w, 1.0)], rows), [0, 1, 2, 3])
    codes = w.layout.unpack(w.planes, w.n, w.k)
    assert codes.scales is not None
    table = pack_matrix(rows, "bf16").dequantized()
    for r in range(4):
        seen = [min(max(round(float(v / scale)), -128), 127) for v in table[r]]
        for n in range(w.n):
            total = sum(int(c) * s for c, s in zip(codes.values[n], seen, strict=True))
            y = np.float32(total) * np.float32(np.float32(codes.scales[n, 0]) * scale)
            assert got[r, n] == np.float32(min(max(round(float(y / step)), -128), 127)) * step


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(ROW_FORMATS))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_are_exact(isa: str, bits: int, sign: int) -> None:
    """The lowest code against the lowest and the highest activation, over the longest row."""
    fmt, lowest = ROW_FORMATS[bits], FORMATS[ROW_FORMATS[bits]].lowest
    layout = select.layout(fmt)
    codes = np.full((17, MOST_COLUMNS), lowest, np.int8)
    planes = layout.pack(Codes(values=codes, scales=np.ones((17, 1), np.float32)))
    w = PackedMatrix(format=fmt, n=17, k=MOST_COLUMNS, planes=planes, layout=layout, input_scale=1.0)
    rows = np.full((1, MOST_COLUMNS), sign * 512, np.float32)
    got = logits(NativeBackend(1, isa), plan(MOST_COLUMNS, [(w, 1.0)], rows), [0] * 5)
    assert (got == np.float32(lowest * (127 if sign > 0 else -128) * MOST_COLUMNS)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_activations_of_other_scales_are_rounded_anew(isa: str) -> None:
    """Products of one buffer with different scales, of different formats, between each other."""
    k = 130
    steps = (0.02, 0.05, 0.0, 0.02)
    outputs = [(matrix(20, k, bits, input_scale=step), 1.0) for bits in (4, 2) for step in steps]
    outputs.insert(3, (pack_matrix(embedding(k)[:20], "int8"), 1.0))
    rows = embedding(k)
    backend, ids = NativeBackend(2, isa), list(range(9))
    alone = [logits(backend, plan(k, [output], rows), ids) for output in outputs]
    assert np.array_equal(logits(backend, plan(k, outputs, rows), ids), np.concatenate(alone, axis=1))


def test_without_a_scale_activations_keep_sixteen_bits() -> None:
    """Far below the bound of 1e-3 that logits have; a scale of the row for eight bits would exceed it."""
    k = 1536
    w, rows = matrix(64, k, 2), embedding(k)
    exact = pack_matrix(rows, "bf16").dequantized().astype(np.float64) @ w.dequantized().astype(np.float64).T
    ids = [0, 3, 4, 5]
    bound = 1e-4 * np.abs(exact[ids]).max()
    got = logits(NativeBackend(1), plan(k, [(w, 1.0)], rows), ids)
    assert np.abs(got - exact[ids]).max() < bound
    for i in ids:  # the control
        step = float(np.abs(rows[i]).max()) / 127
        coarse = logits(NativeBackend(1), plan(k, [(replace(w, input_scale=step), 1.0)], rows), [i])
        assert np.abs(coarse - exact[i]).max() > bound


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(ROW_FORMATS))
def test_rows_of_tables(isa: str, bits: int) -> None:
    """Embeddings out of tiles, whole rows and columns of packed tables, with a scale for each block."""
    width, column, part = 90, 25, 41
    row = FORMATS[ROW_FORMATS[bits]]
    codes = G.integers(row.lowest, row.highest + 1, (VOCAB, width)).astype(np.int8)
    for blocks in (1, 3, 90):
        planes = {"codes": pack_codes(codes, bits), "scales": G.random((VOCAB, blocks), dtype=np.float32)}
        table = RowTable(format=row.name, rows=VOCAB, width=width, planes=planes)
        tiles = matrix(VOCAB, width, bits)
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
        widths = {"a": width, "b": part, "c": width, "ab": width + part}
        whole = 2 * width + part
        widths |= {"abc": whole, "logits": whole, "hidden": whole}
        made = p.Plan(widths=widths, nodes=tuple(nodes), ropes=(), hidden="hidden", logits="logits", slots=1)
        ids = [0, 39, 7, 7]
        got = logits(NativeBackend(1, isa), made, ids)
        wide = table.dequantized()[ids]
        parts = [wide * 1.5, wide[:, column : column + part] * np.float32(0.25), tiles.dequantized()[ids] * 1.5]
        assert np.array_equal(got, np.concatenate(parts, axis=1).astype(np.float32))
        assert np.array_equal(logits(ReferenceBackend(), made, ids), got)


def _matrix(**changes: object) -> object:
    given = {"format": "q2r", "n": 16, "k": 64, "stack": 1, "data": np.zeros(256, np.uint8), "scales": None}
    return _native.Matrix(**(given | {"row_scales": np.ones(16, np.float32)} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros(255, np.uint8)}, r"data has 255 values, expected 256 for q2r weights \[1, 16, 64\]"),
        ({"row_scales": None}, "row_scales is None, but q2r weights need 16"),
        ({"row_scales": np.ones(8, np.float32)}, "row_scales has 8 values, expected 16"),
        ({"input_scale": -1.0}, "input_scale must be 0 or more, but is -1"),
        ({"input_scale": float("nan")}, "input_scale must be 0 or more, but is nan"),
        ({"output_scale": float("inf")}, "output_scale must be 0 or more, but is inf"),
        ({"k": MOST_COLUMNS + 1}, f"k is {MOST_COLUMNS + 1}, but q2r sums hold at most {MOST_COLUMNS} columns"),
    ],
)
def test_unusable_matrices_are_refused(changes: dict[str, object], message: str) -> None:
    assert _matrix()
    with pytest.raises(ValueError, match=message):
        _matrix(**changes)


def test_other_formats_have_no_scales_of_activations() -> None:
    with pytest.raises(ValueError, match="input_scale is 1, but bf16 weights have none"):
        _native.Matrix("bf16", 16, 32, 1, np.zeros(1024, np.uint8), None, None, 1.0)
    with pytest.raises(ValueError, match="4 scales for a row, which do not divide 90 columns"):
        _native.RowTable("q2r", 1, 90, np.zeros(23, np.uint8), None, np.ones(4, np.float32))


def test_a_model_of_the_published_mix() -> None:
    """All four bit widths in one model: one result whatever rows, threads and instruction set, near the reference's."""
    config = load_target_config(text_settings("E2B") | {"model_type": "gemma4_text"})
    store = cast(WeightStore, RandomStore(config, "mobile"))
    ids = np.random.default_rng(8).integers(3, config.vocab_size, 40).astype(np.int32)

    def run(backend: Backend, sizes: list[int]) -> np.ndarray:
        return logits_in_pieces(compile_target(config, store, backend, max_rows=16), ids, sizes)

    formats = {
        n.w.format
        for n in compile_target(config, store, NativeBackend(1), max_rows=1).plan.nodes
        if isinstance(n, p.Linear)
    }
    assert formats == {"bf16", "q2r", "q4r", "q8r"}
    want = run(NativeBackend(1, ISAS[-1]), [1])
    for isa in ISAS:
        for threads, sizes in ((1, [5]), (2, [8]), (2, [3, 1, 16])):
            assert np.array_equal(run(NativeBackend(threads, isa), sizes), want), (isa, threads, sizes)
    # A code of an activation or an output may round the other way where norms differ in their last bit.
    reference = run(ReferenceBackend(), [16])
    assert np.abs(reference - want).mean() < 0.02 * np.abs(want).mean()


def test_experts_are_refused() -> None:
    program = _native.Program(_native.Pool(1), ISAS[0], 1, [64, 1, 64])
    up, down = (
        _matrix(n=128, data=np.zeros(2048, np.uint8), row_scales=np.ones(128, np.float32)),
        _matrix(n=64, data=np.zeros(1024, np.uint8), row_scales=np.ones(64, np.float32)),
    )
    with pytest.raises(ValueError, match="gate_up is q2r, but experts have no static activations"):
        program.experts(0, 1, 2, up, down, 1, np.ones(1, np.float32))  # type: ignore[arg-type]
