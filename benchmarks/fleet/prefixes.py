"""Conversations over three replicas: how many prompt tokens are reused, beside what one server reuses.

Usage: python benchmarks/fleet/prefixes.py --json benchmarks/fleet/prefixes.json

Twenty conversations of up to 1,900 tokens (the embedded pair's context is 2,048), four turns each, in an order that is
drawn; four of them are asked at the same time. Mark: 0.9 of what one server reuses.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from started import Started

from geminate import machine

CONVERSATIONS, TURNS, TURN_TOKENS, ANSWER, CLIENTS = 20, 4, 440, 24, 4
MODEL, MARK = "geminate-embedded", 0.9


def turns(seed: int) -> list[list[int]]:
    """For each turn the conversations in the order in which they are asked."""
    rng = random.Random(seed)
    return [rng.sample(range(CONVERSATIONS), CONVERSATIONS) for _ in range(TURNS)]


def play(server: Started) -> dict[str, float]:
    """All conversations; prompt tokens, and those that were reused."""
    rng = random.Random(1)
    said: list[list[int]] = [[2] for _ in range(CONVERSATIONS)]
    fresh = [[[rng.randrange(300, 8000) for _ in range(TURN_TOKENS)] for _ in range(TURNS)] for _ in said]
    asked = reused = 0

    def ask(number: int) -> dict[str, Any]:
        body = {"model": MODEL, "prompt": said[number], "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
        return server.post("/v1/completions", body)

    for turn, order in enumerate(turns(2)):
        for number in order:
            said[number] += fresh[number][turn]
        with ThreadPoolExecutor(CLIENTS) as pool:
            for answer in pool.map(ask, order):
                usage = answer["usage"]
                asked += usage["prompt_tokens"]
                reused += usage["prompt_tokens_details"]["cached_tokens"]
    return {"prompt_tokens": asked, "reused_tokens": reused, "share": round(reused / asked, 4)}


def main() -> int:
    """Play and compare; exit code 1 where the mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    big = 'kv_bytes = "1GiB"\nthreads = 1\n'
    config = Path("build") / "fleet-prefixes.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(f"[[model]]\nreplicas = 3\n{big}")
    with Started("serve", "--threads", "1", "--kv-bytes", "1GiB") as one:
        alone = play(one)
    with Started("fleet", "up", "--config", str(config)) as fleet:
        spread = play(fleet)
    ratio = round(spread["reused_tokens"] / alone["reused_tokens"], 4)
    result = {
        "machine": machine.describe(), "one_server": alone, "three_replicas": spread, "ratio": ratio, "mark": MARK,
        "ok": ratio >= MARK,
    }  # fmt: skip
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
