"""The embedded pair on bench80: acceptance at k = 4, and tokens/s plain, with k = 4 and with auto, in one run.

Usage: python benchmarks/embedded.py [--repeats 3] [--json FILE]

Prints the machine, the ceiling (what the measured pass times and acceptance allow), medians over repeats whose
modes are interleaved prompt by prompt, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from geminate import LLM, Output, SamplingParams, __version__

MODES: tuple[str | int, ...] = ("off", 4, "auto")


def machine() -> str:
    """Processor name and core count."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def pass_times(llm: LLM, rows: tuple[int, ...], repeats: int) -> dict[int, float]:
    """Median seconds of a pass over M rows behind 128 tokens of context, row counts interleaved."""
    target = llm.pair.target
    cache = target.new_cache()
    ids = np.arange(200, 328, dtype=np.int32)
    at = np.arange(128, dtype=np.int32)
    cache.reserve(128)
    target.forward(ids, at, np.zeros_like(at), [cache], at[:0])
    cache.advance(128)
    times: dict[int, list[float]] = {m: [] for m in rows}
    for _ in range(repeats):
        for m in rows:
            part = np.arange(m, dtype=np.int32)
            began = time.perf_counter()
            target.forward(ids[:m], part + np.int32(128), np.zeros_like(part), [cache], part)
            times[m].append(time.perf_counter() - began)
    return {m: statistics.median(t) for m, t in times.items()}


def draft_time(llm: LLM, repeats: int) -> float:
    """Median seconds of one draft step (of four in a call) behind 128 tokens of context."""
    from geminate.ops import DraftRule

    assert llm.pair.drafter is not None
    target = llm.pair.target
    cache = target.new_cache()
    at = np.arange(128, dtype=np.int32)
    cache.reserve(128)
    hidden, _ = target.forward(at + np.int32(200), at, np.zeros_like(at), [cache], at[:0])
    cache.advance(128)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        llm.pair.drafter.draft(300, hidden[-1], cache, 4, DraftRule())
        times.append((time.perf_counter() - began) / 4)
    return statistics.median(times)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path, default=Path(__file__).parent / "prompts" / "bench80.jsonl")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", type=Path, help="also write the JSON line to this file")
    args = parser.parse_args()
    llm = LLM(weights=args.weights, threads=args.threads)
    backend = llm.pair.target.backend
    items = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    prompts = [(item["category"], llm.chat_ids([{"role": "user", "content": item["turns"][0]}])) for item in items]
    params = SamplingParams(max_tokens=args.max_tokens, temperature=args.temperature, seed=7)
    times = pass_times(llm, (1, 2, 3, 5, 9), 40)
    step = draft_time(llm, 100)
    seconds: dict[str | int, list[float]] = {mode: [] for mode in MODES}
    tokens = 0
    accepted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    per_position = [[0, 0] for _ in range(4)]
    for repeat in range(args.repeats):
        totals = dict.fromkeys(MODES, 0.0)
        tokens = 0
        for category, ids in prompts:
            outs: dict[str | int, Output] = {}
            for mode in MODES:
                outs[mode] = llm.generate([ids], params, speculation=mode)[0]
                totals[mode] += outs[mode].stats.decode_s
            if len({tuple(o.token_ids) for o in outs.values()}) != 1:
                print(f"outputs differ on a {category} prompt", file=sys.stderr)
                return 1
            stats = outs[4].stats
            tokens += stats.generated_tokens - 1
            if repeat == 0:
                # The first round belongs to the prefill and has no drafts: it is no round of speculation.
                accepted[category][0] += stats.rounds - 1
                accepted[category][1] += stats.accepted
                for i, (a, n) in enumerate(zip(stats.accepted_per_position, stats.drafted_per_position, strict=True)):
                    per_position[i][0] += a
                    per_position[i][1] += n
        for mode in MODES:
            seconds[mode].append(totals[mode])
    rounds = sum(r for r, _ in accepted.values())
    tau = 1 + sum(a for _, a in accepted.values()) / rounds
    rate = {str(m): tokens / statistics.median(t) for m, t in seconds.items()}
    ratio = {str(m): statistics.median(a / b for a, b in zip(seconds["off"], seconds[m], strict=True)) for m in MODES}
    ceiling = tau * times[1] / (times[5] + 4 * step)
    result = {
        "benchmark": "embedded", "version": __version__, "machine": machine(), "isa": backend.isa,
        "threads": backend.threads, "weights": args.weights, "prompts": len(prompts), "tokens": tokens,
        "max_tokens": args.max_tokens, "temperature": args.temperature, "repeats": args.repeats,
        "pass_us": {str(m): round(t * 1e6, 1) for m, t in times.items()}, "draft_step_us": round(step * 1e6, 1),
        "draft_step_share": round(step / times[1], 4), "ceiling_k4": round(ceiling, 3),
        "acceptance_length_k4": round(tau, 3),
        "acceptance_by_category": {c: round(1 + a / r, 3) for c, (r, a) in sorted(accepted.items())},
        "survival_by_position": [round(a / n, 3) if n else None for a, n in per_position],
        "tokens_per_s": {m: round(r, 1) for m, r in rate.items()},
        "speedup": {m: round(r, 3) for m, r in ratio.items()},
    }  # fmt: skip
    print(f"machine    {result['machine']}; {backend.isa}, {backend.threads} threads, {args.weights}")
    print(f"ceiling    k = 4: {ceiling:.2f}x plain, from T(1) {times[1] * 1e6:.0f} us, T(5) {times[5] * 1e6:.0f} us, "
          f"draft step {step * 1e6:.0f} us, acceptance length {tau:.2f}")  # fmt: skip
    for mode in MODES:
        print(f"{mode!s:10} {rate[str(mode)]:7.0f} tokens/s  {ratio[str(mode)]:.2f}x")
    print("by category", result["acceptance_by_category"])
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
