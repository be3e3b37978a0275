"""Record what rounds of the embedded pair take, by draft length, for replays in tests/speculation/.

Usage: python benchmarks/record_timings.py OUT.json [--busy 5] [--moments 150] [--temperature 0.7]

Stories are written at every draft length in turn, BLOCK rounds each, so that every moment of the machine is seen by all
lengths. --busy starts as many endless loops beside. One moment is, per draft length, the microseconds of [the time
before the pass, drafting included; the pass; what each emitted token and the round itself took after it].
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from geminate import LLM, SamplingParams, machine
from geminate.engine.engine import Engine
from geminate.engine.sequence import Sequence
from geminate.loading.calibrate import measure
from geminate.speculation.policy import FixedPolicy

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
BLOCK = 4  # rounds of a length in a row; the first, which finds other code and weights in the caches, is left out
PROMPT = "Write a story about a little boat."


def moment(llm: LLM, engine: Engine, sequence: Sequence) -> list[list[list[int]]] | None:
    """BLOCK - 1 moments, each [length][3] microseconds; None where the story ended."""
    made: list[list[list[int]]] = [[] for _ in range(BLOCK - 1)]
    for length in LENGTHS:
        sequence.policy = FixedPolicy(engine.drafter, length)
        for index in range(BLOCK):
            before = len(sequence.token_ids)
            engine.step()
            if sequence.finish_reason is not None:
                return None
            timing, emitted = engine.timing, len(sequence.token_ids) - before
            if index:
                parts = (timing.drafting, timing.last_pass, timing.rest / (emitted + 1))
                made[index - 1].append([round(seconds * 1e6) for seconds in parts])
    return made


def record(llm: LLM, count: int, temperature: float) -> list[list[list[int]]]:
    """``count`` moments of [length][3] microseconds."""
    ids = llm.chat_ids([{"role": "user", "content": PROMPT}])
    moments: list[list[list[int]]] = []
    engine, seed = llm.engine, 0
    while len(moments) < count:
        seed += 1
        params = SamplingParams(max_tokens=900, temperature=temperature, seed=seed, ignore_eos=True)
        sequence = engine.add(llm.request(ids, params, speculation=0))
        engine.step()
        while sequence.finish_reason is None and len(moments) < count:
            moments.extend(moment(llm, engine, sequence) or [])
        if sequence.finish_reason is None:
            engine.abort(sequence)
    return moments[:count]


def main() -> int:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--moments", type=int, default=150)
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args()
    llm = LLM(threads=2)
    profile = measure(llm.pair)
    record(llm, 6, args.temperature)
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.busy)]
    try:
        time.sleep(0.5 if loops else 0.0)
        moments = record(llm, args.moments, args.temperature)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    trace = {
        "machine": machine.describe(), "busy": args.busy, "lengths": LENGTHS, "profile": profile.as_dict(),
        "moments": moments,
    }  # fmt: skip
    args.out.write_text(json.dumps(trace, separators=(",", ":")) + "\n")
    for at, length in enumerate(LENGTHS):
        whole = sorted(sum(m[at]) for m in moments)
        print(f"k = {length:2}: median {whole[len(whole) // 2]} us, 90 % {whole[len(whole) * 9 // 10]} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
