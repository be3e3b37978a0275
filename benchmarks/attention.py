"""Attention of one full layer of the E2B shape by itself: 8 query heads of 512 over one KV head.

Usage: python benchmarks/attention.py [--threads N] [--repeats N] [--json FILE]

Multiply-accumulates a second of scores and values together, beside the machine's int8 peak (int8) or a quarter of it
(float16: products in float32, of which a register holds a quarter as many). Formats and rows are interleaved in
rounds; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import get_args

import numpy as np

from geminate import __version__, machine
from geminate.backends.kv_rings import KVRings
from geminate.backends.select import native_backend
from geminate.backends.tiles import LAYOUTS
from geminate.formats.matrix import PackedMatrix
from geminate.formats.table import FORMATS
from geminate.kv.store import KVDtype, SlotSpec
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from geminate.tools.bench.step import fill_with_noise

HEADS, HEAD_DIM, ROWS, CONTEXTS = 8, 512, (1, 3, 5, 8), (128, 8192, 32768)


def plan() -> p.Plan:
    """Rows of a table as queries, then attention."""
    width = HEADS * HEAD_DIM
    rows = np.random.default_rng(0).standard_normal((16, width)).astype(np.float32) * np.float32(HEAD_DIM**-0.5)
    layout = LAYOUTS["bf16"]
    planes = {name: plane[None] for name, plane in layout.pack(FORMATS["bf16"].quantize(rows)).items()}
    table = PackedMatrix(format="bf16", n=16, k=width, planes=planes, layout=layout)
    heads = p.Attention(q="q", out="o", slot=0, heads=HEADS, kv_heads=1, head_dim=HEAD_DIM, window=0, include_self=True)
    nodes = (p.Embed(out="q", table=table, scale=1.0), heads)
    return p.Plan(widths={"q": width, "o": width}, nodes=nodes, ropes=(), hidden="o", logits="o", slots=1)


def filled(dtype: KVDtype, context: int) -> KVRings:
    """A cache with noise in every row."""
    spec = SlotSpec(kv_heads=1, head_dim=HEAD_DIM, window=0)
    cache = KVRings((spec,), max_context=context + 64, max_rows=context, dtype=dtype, whole=True)
    cache.advance(context)
    fill_with_noise(cache)
    return cache


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    backend = native_backend(options.threads)
    program = backend.compile(plan(), max_rows=max(ROWS))
    result: dict[str, object] = {
        "benchmark": "attention", "version": __version__, "machine": machine.describe(), "isa": backend.isa,
        "threads": backend.threads, "heads": HEADS, "head_dim": HEAD_DIM, "repeats": options.repeats,
    }  # fmt: skip
    ids = np.arange(16, dtype=np.int32)
    for context in CONTEXTS:
        caches = {dtype: filled(dtype, context) for dtype in get_args(KVDtype)}
        taken: dict[tuple[KVDtype, int], list[float]] = {(dtype, m): [] for dtype in caches for m in ROWS}
        shares: dict[tuple[KVDtype, int], list[float]] = {key: [] for key in taken}
        for _ in range(options.repeats):
            peak = backend.multiply_rate()
            for (dtype, m), times in taken.items():
                batch = Batch.of([Rows(cache=caches[dtype], ids=ids[:m], wanted=m)])
                began = time.perf_counter()
                program.run(batch)
                times.append(time.perf_counter() - began)
                rate = 2 * context * HEADS * HEAD_DIM * m / times[-1]
                shares[dtype, m].append(rate / (peak if dtype == "int8" else peak / 4))
        for (dtype, m), times in taken.items():
            seconds = statistics.median(times)
            result[f"{dtype} {context} rows {m}"] = {
                "us": round(seconds * 1e6, 1),
                "gmacs": round(2 * context * HEADS * HEAD_DIM * m / seconds / 1e9, 1),
                "peak_share": round(statistics.median(shares[dtype, m]), 3),
            }
            print(context, dtype, m, result[f"{dtype} {context} rows {m}"])
    line = json.dumps(result)
    print(line)
    if options.json:
        options.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
