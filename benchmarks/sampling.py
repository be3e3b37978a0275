"""Milliseconds to draw a token from a row of logits, by parameters, rows and instruction set.

Usage: python benchmarks/sampling.py [--vocab N] [--rows M] [--threads T] [--repeats R] [--json FILE]

Two kinds of rows: "peaked" (a few likely tokens above a broad floor) and "flat" (normal, standard deviation 1). The
ceiling is one reading of the row at the rate that `geminate bench step` measures. Settings take turns within each
repeat, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from geminate.arrays import F32
from geminate.backends.select import native_backend
from geminate.decoding.sampler import ReferenceSampler, RowsToDraw, Sampler
from geminate.machine import describe
from geminate.params import SamplingParams

PENALTIES = {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.2}
SETTINGS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0},
    "top_k 64, top_p 0.95": {"temperature": 1.0, "top_k": 64, "top_p": 0.95},
    "the same with penalties": {"temperature": 1.0, "top_k": 64, "top_p": 0.95, **PENALTIES},
    "temperature 1": {"temperature": 1.0},
    "temperature 0.7": {"temperature": 0.7},
    "top_p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "min_p 0.05": {"temperature": 1.0, "min_p": 0.05},
}
SEEN = 300  # tokens of the prompt, for penalties
LOGPROBS = "logprobs, 5 tops"


def rows_of(kind: str, rows: int, vocab: int) -> F32:
    """float32 [rows, vocab]."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((rows, vocab)).astype(np.float32)
    if kind == "peaked":
        x = 3 * x
        for row in x:
            row[generator.integers(0, vocab, 40)] += np.linspace(4, 14, 40, dtype=np.float32)
    return x


def measure(sampler: Sampler, logits: F32, repeats: int) -> dict[str, float]:
    """Median milliseconds a row, by setting."""
    rows, vocab = logits.shape
    prompt = [int(t) for t in np.random.default_rng(1).integers(0, vocab, SEEN)]
    sequences = {
        name: [sampler.sequence(SamplingParams(seed=1, **values).resolved(), i, prompt) for i in range(rows)]  # type: ignore[arg-type]
        for name, values in SETTINGS.items()
    }
    tokens = list(range(rows))
    taken: dict[str, list[float]] = {name: [] for name in [*SETTINGS, LOGPROBS]}
    for repeat in range(repeats + 1):  # the first is not counted
        for name, own in sequences.items():
            parts = [RowsToDraw(sampler=s, first=i, position=repeat, drafts=()) for i, s in enumerate(own)]
            began = time.perf_counter()
            drawn = sampler.draw_ahead(logits, parts)
            for row, (s, known) in enumerate(zip(own, drawn, strict=True)):
                if not known:
                    s.draw(logits[row], repeat)
            taken[name].append(time.perf_counter() - began)
        began = time.perf_counter()
        sampler.logprobs(logits, tokens, 5)
        taken[LOGPROBS].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(times[1:]) / rows for name, times in taken.items()}


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=262144)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--reference", action="store_true", help="NumPy as well")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file, too")
    args = parser.parse_args()
    native = native_backend(args.threads)
    data = np.zeros(64 << 20, dtype=np.uint8)
    rate = data.nbytes / min(native.read_seconds(data) for _ in range(5))
    report: dict[str, object] = {
        "machine": describe(), "isa": native.isa, "threads": native.threads, "vocab": args.vocab,
        "read_ms": round(1e3 * 4 * args.vocab / rate, 4),
    }  # fmt: skip
    print(f"{describe()}; {native.isa}, {native.threads} threads; {args.vocab} logits")
    print(f"reading a row once takes {report['read_ms']} ms at {rate / 1e9:.1f} GB/s")
    samplers: dict[str, tuple[Sampler, int]] = {"native": (native.sampler, args.repeats)}
    if args.reference:
        samplers["reference"] = (ReferenceSampler(), max(1, args.repeats // 10))
    figures: dict[str, dict[str, float]] = {}
    for name, (sampler, repeats) in samplers.items():
        for kind in ("peaked", "flat"):
            for rows in args.rows:
                made = measure(sampler, rows_of(kind, rows, args.vocab), repeats)
                figures[f"{name}, {kind}, {rows} rows"] = {key: round(value, 4) for key, value in made.items()}
    print(f"\n{'ms a row':26}" + "".join(f"{name:>24}" for name in figures))
    for setting in [*SETTINGS, LOGPROBS]:
        print(f"{setting:26}" + "".join(f"{made[setting]:24.3f}" for made in figures.values()))
    report["ms_per_row"] = figures
    print(json.dumps(report))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
