"""Passes of the E2B shape while another process keeps one core busy, against the same with both cores free.

Usage: python benchmarks/contended.py [--seconds 6] [--rounds 3] [--json FILE]

Free and contended stretches take turns. The neighbour is an endless loop that the system may move between cores.
Prints medians over rounds and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from geminate import machine
from geminate.tools.bench.step import StepBench

ROWS = (1, 5)


def rate(bench: StepBench, rows: int, seconds: float) -> float:
    """Passes a second."""
    began, passes = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        bench.step(rows)
        passes += 1
    return passes / (time.perf_counter() - began)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bench = StepBench("gemma-4-E2B", "int4", threads=args.threads)
    free: dict[int, list[float]] = {m: [] for m in ROWS}
    busy: dict[int, list[float]] = {m: [] for m in ROWS}
    for m in ROWS:
        bench.step(m)
    for _ in range(args.rounds):
        for m in ROWS:
            free[m].append(rate(bench, m, args.seconds))
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                time.sleep(0.3)
                busy[m].append(rate(bench, m, args.seconds))
            finally:
                neighbour.kill()
                neighbour.wait()
    share = {m: [b / f for b, f in zip(busy[m], free[m], strict=True)] for m in ROWS}
    result = {
        "benchmark": "contended", "machine": machine.describe(), "threads": args.threads, "rounds": args.rounds,
        "passes_per_s_free": {str(m): round(statistics.median(free[m]), 2) for m in ROWS},
        "passes_per_s_contended": {str(m): round(statistics.median(busy[m]), 2) for m in ROWS},
        "share": {str(m): round(statistics.median(s), 3) for m, s in share.items()},
        "all_shares": {str(m): [round(x, 3) for x in s] for m, s in share.items()},
    }  # fmt: skip
    print(f"machine  {result['machine']}, {args.threads} threads; ceiling with a fair half of one core: 0.75")
    for m in ROWS:
        print(f"M = {m}: {result['share'][str(m)]:.2f} of the free speed ({result['all_shares'][str(m)]})")
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
