"""Passes that want only the largest logit of each row: the same token, whatever else is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geminate.backends import select
from geminate.backends.cpu.program import NativeBackend, supported_isas
from geminate.formats.matrix import PackedMatrix
from geminate.formats.table import FORMATS, ROW_FORMATS, Codes
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from support.packed import pack_matrix

ISAS = supported_isas()
VOCAB, WIDTH, TOKENS = 2085, 96, 24
G = np.random.default_rng(11)


def head(bits: int, codes: np.ndarray, scale: float = 0.01) -> PackedMatrix:
    """A head that is not calibrated: its activations have 16 bits."""
    fmt = ROW_FORMATS[bits]
    scales = np.full((len(codes), 1), scale, dtype=np.float32)
    planes = select.layout(fmt).pack(Codes(values=codes.astype(np.int8), scales=scales))
    return PackedMatrix(format=fmt, n=len(codes), k=codes.shape[1], planes=planes, layout=select.layout(fmt))


def random_codes(bits: int) -> np.ndarray:
    row = FORMATS[ROW_FORMATS[bits]]
    return G.integers(row.lowest, row.highest + 1, (VOCAB, WIDTH))


def close_codes(bits: int) -> np.ndarray:
    """Rows that differ, if at all, where activations have no high halves."""
    codes = np.tile(random_codes(bits)[:1], (VOCAB, 1))
    codes[:, WIDTH // 2 :] = random_codes(bits)[:, WIDTH // 2 :]
    codes[1::2] = codes[::2][: len(codes[1::2])]  # ties
    return codes


def embeddings(small: float = 1.0) -> np.ndarray:
    rows = G.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    rows[:, WIDTH // 2 :] *= small
    rows[3] = 0.0
    rows[4, 0] = 3000.0  # leaves the others without high halves
    return rows


def plan(w: PackedMatrix, table: np.ndarray, cap: float) -> p.Plan:
    """Rows of ``table`` times a head."""
    nodes: list[p.Node] = [
        p.Embed(out="x", table=pack_matrix(table, "bf16"), scale=1.0),
        p.GatherRows(x="x"),
        p.RmsNorm(x="x", out="normed", weight=None, eps=1e-6),
        p.Linear(x="normed", out="logits", w=w),
    ]
    if cap:
        nodes.append(p.Softcap(x="logits", cap=cap))
    widths = {"x": WIDTH, "normed": WIDTH, "logits": VOCAB}
    return p.Plan(nodes=tuple(nodes), widths=widths, hidden="normed", logits="logits", ropes=(), slots=0)


CASES = {
    "random": (random_codes, 1.0, 0.01),
    "close": (close_codes, 1e-4, 0.01),
    "beyond the soft cap": (random_codes, 1.0, 4.0),
    "negative": (lambda bits: -np.abs(random_codes(bits)), 1.0, 0.01),
}


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("case", CASES)
def test_the_token_is_the_same(case: str, bits: int, cap: float) -> None:
    make, small, scale = CASES[case]
    w = head(bits, make(bits), scale)
    table = embeddings(small)
    if case == "negative":
        table = np.abs(table)
    made = plan(w, table, cap)
    left_out = 0
    for isa in ISAS:
        for threads in (1, 2):
            backend = NativeBackend(threads, isa)
            program = backend.compile(made, max_rows=TOKENS)
            kv = backend.new_kv((), max_rows=TOKENS)
            for rows in (1, 2, 3, 5, 8, 9, TOKENS):
                batch = Batch.of([Rows(cache=kv.new(64), ids=np.arange(rows, dtype=np.int32), wanted=rows)])
                exact = program.run(batch)[1]
                found = program.run(replace(batch, largest=True))[1]
                best = np.argmax(exact, axis=1)
                assert np.array_equal(np.argmax(found, axis=1), best), (isa, threads, rows)
                at = np.arange(rows), best
                assert np.array_equal(found[at], exact[at])
                left_out += int((found != exact).sum())
    assert left_out or case in ("close", "beyond the soft cap"), "nothing was saved"
