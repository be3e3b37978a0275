"""Sixteen clients at once, short prompts behind long ones: seconds to the first token, by kind, and between tokens.

Usage: python benchmarks/serve/burst.py [--model FILE] [--old SRC] [--json FILE]

Every burst sends four long prompts and, a moment later, twelve short ones; nothing of them is in the prefix cache.
--old SRC is the ``src`` directory of another version (with its native module): both servers then take turns burst by
burst, and the ratios new to old are of a burst's slowest short prompt. "alone": nothing else runs. "beside": an answer
is being written meanwhile; ``gap_ms`` is the time between its parts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from load import ENDS, Server
from sse_client import Answer, complete

import geminate
from geminate import machine

LONG, SHORT = 4, 12
MODES = ("alone", "beside")
WORDS = ["river", "stone", "window", "garden", "morning", "letter", "bridge", "yellow", "quiet", "engine", "paper"]
COMMAND = "from geminate.cli.app import app; app()"


def text(rng: random.Random, words: int) -> str:
    """A prompt that no other one begins like."""
    return f"{rng.random():.9f} " + " ".join(rng.choice(WORDS) for _ in range(words))


async def burst(port: int, model: str, prompts: list[tuple[str, str]], beside: str | None) -> dict[str, list[float]]:
    """Send all prompts, the long ones 20 ms before the short ones, beside the answer to another one, if any."""
    common: dict[str, Any] = {
        "model": model, "temperature": 0, "logit_bias": {str(token): -100 for token in ENDS},
        "stream_options": {"include_usage": True},
    }  # fmt: skip

    async def one(kind: str, prompt: str) -> tuple[str, Answer]:
        await asyncio.sleep(0.3 if kind == "long" else 0.32)
        return kind, await complete(port, {**common, "prompt": prompt, "max_tokens": 16})

    running = None
    if beside is not None:
        running = asyncio.create_task(complete(port, {**common, "prompt": beside, "max_tokens": 1500}))
    made = await asyncio.gather(*(one(kind, prompt) for kind, prompt in prompts))
    firsts: dict[str, list[float]] = {"long": [], "short": []}
    for kind, answer in made:
        firsts[kind].append(answer.first)
    if running is None:
        return firsts | {"gap": []}
    over = max(answer.began + answer.first for _, answer in made)
    began = min(answer.began for _, answer in made)
    times = [at for at in (await running).times if began <= at <= over]
    return firsts | {"gap": [b - a for a, b in itertools.pairwise(times)]}


def figures(bursts: list[dict[str, list[float]]]) -> dict[str, float]:
    """Percentiles over all bursts, in ms."""
    made: dict[str, float] = {}
    for kind in ("short", "long", "gap"):
        found = [1e3 * value for one in bursts for value in one[kind]]
        for percent in (50, 99) if found else ():
            made[f"{kind}_ms_p{percent}"] = round(float(np.percentile(found, percent)), 2)
    return made


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF file or directory; default: the embedded pair")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--old", type=Path, help="src directory of the version to compare with")
    parser.add_argument("--bursts", type=int, default=10)
    parser.add_argument("--long-words", type=int, default=700)
    parser.add_argument("--short-words", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = [str(args.model)] if args.model else []
    command = ["serve", *model, "--weights", args.weights, "--port", "PORT", "--max-running", "24"]
    sources = {"new": Path(geminate.__file__).parent.parent} | ({"old": args.old} if args.old else {})
    servers: dict[str, Server] = {}
    rows: dict[tuple[str, str], list[dict[str, list[float]]]] = {}
    rng = random.Random(1)
    try:
        for way, source in sources.items():
            prelude = f"import sys; sys.path.insert(0, {os.fspath(source.resolve())!r}); {COMMAND}"
            servers[way] = Server([sys.executable, "-c", prelude, *command], "/health/ready")
        for number in range(args.bursts + 1):
            kinds = [("long", args.long_words)] * LONG + [("short", args.short_words)] * SHORT
            for mode in MODES:
                prompts = [(kind, text(rng, words)) for kind, words in kinds]
                beside = None if mode == "alone" else text(rng, args.short_words)
                for way in sources if number % 2 else reversed(sources):
                    server = servers[way]
                    found = asyncio.run(burst(server.port, server.model(), prompts, beside))
                    if number:  # the first one warms up
                        rows.setdefault((mode, way), []).append(found)
    finally:
        for server in servers.values():
            server.stop()
    result: dict[str, Any] = {
        "benchmark": "burst", "machine": machine.describe(), "geminate": geminate.__version__,
        "model": args.model.name if args.model else "embedded", "bursts": args.bursts,
        "words": {"long": args.long_words, "short": args.short_words},
        "results": {mode: {way: figures(rows[mode, way]) for way in sources} for mode in MODES},
    }  # fmt: skip
    if args.old:
        for mode in MODES:
            pairs = zip(rows[mode, "new"], rows[mode, "old"], strict=True)
            ratios = [max(new["short"]) / max(old["short"]) for new, old in pairs]
            result["results"][mode]["short_worst_new_over_old"] = round(statistics.median(ratios), 3)
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
