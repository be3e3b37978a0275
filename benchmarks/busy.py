"""``auto`` beside busy processes: its speed against plain decoding and against the best fixed draft length.

Usage: python benchmarks/busy.py [--answers 24] [--busy 0,5] [--repeats 10] [--only stories|e2b] [--json FILE]

stories: the embedded pair tells stories at temperature 0.7; every answer is written by plain decoding, fixed lengths
and auto in turn, on an idle machine and beside --busy endless loops; figures are medians over answers.
e2b: random weights of the E2B shape in int4 behind 128 positions, drafts accepted by coins (.84, .60, .39, .27), beside
one process that keeps both cores busy; every repeat writes an answer at all lengths and with auto.
The ceiling of both is the fixed length with the best median over all answers, known only afterwards. (The best of each
answer would be the luckiest reading of a noisy machine.) What noise alone does is measured beside it: every repeat of
e2b writes its answer with the longest fixed length twice. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geminate import LLM, SamplingParams, machine
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest
from geminate.engine.stats import Stats
from geminate.tools.bench.decode import Mode, engine_of_shape, random_prompts
from geminate.tools.bench.step import StepBench
from geminate.tools.bench.synthetic import Coin, synthetic_engine

PROMPT = "Write a story about a little boat."
SURVIVAL = [0.84, 0.60, 0.39, 0.27]
LENGTHS = (1, 2, 3, 4, 6)
LOOP = [sys.executable, "-c", "while True: pass"]
BOTH_CORES = [
    sys.executable,
    "-c",
    "import threading, hashlib; data = bytes(1 << 20)\n"
    "def work():\n    while True: hashlib.sha256(data)\n"
    "[threading.Thread(target=work).start() for _ in range(2)]",
]


@contextlib.contextmanager
def beside(commands: list[list[str]]) -> Iterator[None]:
    """Processes that run while the block does."""
    running = [subprocess.Popen(command) for command in commands]
    try:
        time.sleep(0.5 if running else 0.0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def answer(engine: Engine, request: EngineRequest) -> Stats:
    """Write one answer."""
    sequence = engine.add(request)
    while sequence.finish_reason is None:
        engine.step()
    return sequence.stats


@dataclass(frozen=True, kw_only=True)
class Row:
    """One answer: tokens a second by mode, and what auto did."""

    rates: dict[Mode, float]
    auto: Stats


def summary(rows: list[Row]) -> dict[str, Any]:
    """Ratios of medians, and the worst answer."""
    median = {mode: statistics.median(row.rates[mode] for row in rows) for mode in rows[0].rates}
    best = max((mode for mode in median if mode != "auto"), key=lambda mode: median[mode])
    missed = [row for row in rows if not row.auto.drafted and max(row.rates.values()) > 1.3 * row.rates[0]]
    undrafted: Counter[str] = Counter()
    for row in rows:
        undrafted.update(row.auto.undrafted)
    return {
        "answers": len(rows), "best": best, "auto_to_off": round(median["auto"] / median[0], 3),
        "auto_to_best": round(median["auto"] / median[best], 3), "best_to_off": round(median[best] / median[0], 3),
        "worst_to_off": round(min(row.rates["auto"] / row.rates[0] for row in rows), 3),
        "worst_to_best": round(min(row.rates["auto"] / row.rates[best] for row in rows), 3),
        "without_drafts_where_1.3": len(missed), "rounds": sum(row.auto.rounds for row in rows),
        "undrafted": dict(undrafted), "tokens_per_s": {str(mode): round(rate, 1) for mode, rate in median.items()},
    }  # fmt: skip


def stories(count: int, threads: int, tokens: int) -> list[Row]:
    """Answers of the embedded pair."""
    llm = LLM(threads=threads)
    ids = llm.chat_ids([{"role": "user", "content": PROMPT}])
    rows = []
    modes: list[Mode] = [0, *LENGTHS, "auto"]
    for seed in range(count + 1):
        params = SamplingParams(max_tokens=tokens, temperature=0.7, seed=seed, ignore_eos=True)
        rates: dict[Mode, float] = {}
        made: dict[Mode, Stats] = {}
        for mode in modes:
            made[mode] = answer(llm.engine, llm.request(ids, params, speculation=mode))
            rates[mode] = made[mode].tokens_per_s
        if seed:  # the first is for pages and tables
            rows.append(Row(rates=rates, auto=made["auto"]))
        modes = [modes[-1], *modes[:-1]]
    return rows


def e2b(repeats: int, threads: int, tokens: int) -> dict[str, Any]:
    """Answers of the E2B shape at a given acceptance; the profile is measured before the neighbour starts."""
    bench = StepBench("gemma-4-E2B", "int4", threads=threads, on_message=lambda text: print(text, file=sys.stderr))
    coin = Coin(SURVIVAL)
    engine = synthetic_engine(engine_of_shape(bench), coin)
    (prompt,) = random_prompts(bench.config.vocab_size, 1)
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, seed=7, ignore_eos=True).resolved()
    rows = []
    again: list[float] = []
    longest = len(SURVIVAL)
    modes: list[Mode] = [0, *range(1, longest + 1), "auto", longest]

    def made_with(mode: Mode) -> Stats:
        coin.reset()
        request = EngineRequest(request_id="busy", prompt_ids=prompt.token_ids, sampling=sampling, speculation=mode)
        return answer(engine, request)

    with beside([BOTH_CORES]):
        for _ in range(repeats):
            made: dict[Mode, list[Stats]] = {}
            for mode in modes:
                made.setdefault(mode, []).append(made_with(mode))
            first, second = (stats.tokens_per_s for stats in made[longest])
            again.append(second / first)
            rates = {mode: stats[0].tokens_per_s for mode, stats in made.items()}
            rows.append(Row(rates=rates, auto=made["auto"][0]))
            modes = [modes[-1], *modes[:-1]]
    noise = {"median": round(statistics.median(again), 3), "worst": round(min(min(r, 1 / r) for r in again), 3)}
    return summary(rows) | {f"length_{longest}_twice": noise}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=24)
    parser.add_argument("--busy", default="0,5")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["stories", "e2b"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "busy", "machine": machine.describe(), "threads": args.threads}
    if args.only != "e2b":
        LLM(threads=args.threads).measure_costs()  # while nothing else runs
        for busy in [int(part) for part in args.busy.split(",")]:
            with beside([LOOP] * busy):
                result[f"stories_beside_{busy}"] = summary(stories(args.answers, args.threads, args.tokens))
    if args.only != "stories":
        result["e2b_beside_busy_cores"] = e2b(args.repeats, args.threads, 96)
    print(f"machine  {result['machine']}, {args.threads} threads; ceiling of auto_to_best: 1.0")
    for name, figures in result.items():
        if isinstance(figures, dict):
            print(f"{name}: auto / off {figures['auto_to_off']}, auto / best fixed {figures['auto_to_best']} "
                  f"(worst {figures['worst_to_best']}), best fixed / off {figures['best_to_off']}, answers without "
                  f"drafts where a fixed length gained 1.3: {figures['without_drafts_where_1.3']}")  # fmt: skip
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
