"""The server's decoding speed for one client against the engine's own loop, prompt by prompt in turn.

Usage: python benchmarks/serve/one_client.py [--model FILE.gguf] --json OUT

The same prompts, 128 tokens each, greedy: through the server by SSE, timed by the client from the first text to the
last, and through `geminate bench decode`'s loop in this process. A share of 1 is no loss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from load import ENDS, Server, prompts
from rich.progress import track
from sse_client import complete

import geminate
from geminate import LLM, SamplingParams, machine

TOKENS = 128


def main() -> int:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF file or directory; default: the embedded pair")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = [str(args.model)] if args.model else []
    llm = LLM(*model)
    llm.measure_costs()
    server = Server(
        [sys.executable, "-c", "from geminate.cli.app import app; app()", "serve", *model, "--port", "PORT"],
        "/health/ready",
    )
    bias = dict.fromkeys(ENDS, -100.0)
    params = SamplingParams(max_tokens=TOKENS, temperature=0, logit_bias=bias)
    seconds: dict[str, list[tuple[float, float]]] = {"off": [], "auto": []}
    identical = True
    try:
        name = server.model()
        for number, text in enumerate(track(prompts(False, "", args.prompts), transient=True)):
            ids = llm.encode(text)
            for way, found in seconds.items():
                body: dict[str, Any] = {
                    "model": name, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "speculation": way,
                    "logit_bias": {str(token): amount for token, amount in bias.items()},
                    "stream_options": {"include_usage": True},
                }  # fmt: skip
                for turn in (0, 1) if number % 2 else (1, 0):
                    if turn:
                        answer = asyncio.run(complete(server.port, body))
                    else:
                        own = llm.generate(ids, params, speculation=way)[0]
                identical &= answer.text == own.text
                found.append((answer.per_token, own.stats.decode_s / (TOKENS - 1)))
    finally:
        server.stop()
    result = {
        "machine": machine.describe(), "geminate": geminate.__version__, "prompts": args.prompts, "tokens": TOKENS,
        "model": args.model.name if args.model else "embedded", "identical": identical,
    }  # fmt: skip
    for way, found in seconds.items():
        result[way] = {
            "server_tokens_per_s": round(1 / statistics.median(s for s, _ in found), 1),
            "engine_tokens_per_s": round(1 / statistics.median(e for _, e in found), 1),
            "share": round(statistics.median(e / s for s, e in found), 3),
        }
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
