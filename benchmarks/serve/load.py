"""Load on the server: requests and tokens a second, time to first token and between tokens, by number of clients.

Usage: python benchmarks/serve/load.py [--model FILE.gguf] [--peer-python PYTHON] --json OUT

Speculation off and auto, and llama-cpp-python's server on the same file if --peer-python has it, take turns within
every number of clients, in an order that turns from repeat to repeat. "mixed": bench80's questions, each time with
another first word, so that nothing is kept of them; "shared": the same after one long passage, as with a system
prompt. Each way has a server of its own, which has seen the same requests as the others. Greedy, end tokens forbidden
by logit_bias, so that every answer has the same length everywhere. Every answer must be the same text with
speculation off and auto, whatever the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from sse_client import Answer, load

import geminate
from geminate import machine

BENCH80 = Path(geminate.__file__).parent / "assets" / "prompts" / "bench80.jsonl"
ENDS = (1, 50, 106)  # eos, <|tool_response>, <turn|> of Gemma's vocabularies


class Server:
    """A server process on a free port, and its log."""

    def __init__(self, command: list[str], ready: str) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self.process = subprocess.Popen(
            [word.replace("PORT", str(self.port)) for word in command], stdout=self.log, stderr=self.log
        )
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{ready}", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        self.stop()
        self.log.seek(0)
        raise RuntimeError(f"{command[:4]} did not start: {self.log.read()[-2000:].decode(errors='replace')}")

    def model(self) -> str:
        """The id of what it serves."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models") as f:
            return str(json.load(f)["data"][0]["id"])

    def stop(self) -> None:
        """End it and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


def prompts(shared: bool, salt: str, count: int) -> list[str]:
    """``count`` prompts, each with a first word of its own after what is shared: nothing, or some 300 words."""
    items = [json.loads(line) for line in BENCH80.read_text(encoding="utf-8").splitlines()]
    texts = [str(item["turns"][0]) for item in items]
    passage = " ".join(" ".join(texts).split()[:300]) + "\n\n" if shared else ""
    most = 120 if shared else 1000
    return [f"{passage}{salt}{i}. Question: {texts[i % len(texts)][:most]}\nAnswer:" for i in range(count)]


def figures(answers: list[Answer], seconds: float) -> dict[str, float]:
    """Rates in 1/s, times in ms."""
    first = [a.first * 1e3 for a in answers]
    gaps = [gap * 1e3 for a in answers for gap in a.gaps]
    per_token = [a.per_token * 1e3 for a in answers]
    row = {
        "requests_per_s": len(answers) / seconds, "tokens_per_s": sum(a.tokens for a in answers) / seconds,
        "ttft_ms_p50": np.percentile(first, 50), "ttft_ms_p99": np.percentile(first, 99),
        "token_ms_p50": np.percentile(per_token, 50), "token_ms_p99": np.percentile(per_token, 99),
        "gap_ms_p50": np.percentile(gaps, 50), "gap_ms_p99": np.percentile(gaps, 99),
    }  # fmt: skip
    timed = [a.timings for a in answers if a.timings]
    if timed:
        row["cached_prompt_share"] = sum(t["cached_n"] for t in timed) / sum(t["prompt_n"] for t in timed)
        row["acceptance_length"] = statistics.fmean(t["acceptance_length"] for t in timed)
        # Decoding speed of a request by the server's own clock: tokens after the first.
        row["engine_token_ms_p50"] = float(np.median([t["predicted_ms"] / max(1, t["predicted_n"] - 1) for t in timed]))
    return {name: float(value) for name, value in row.items()}


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Figure by figure."""
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}


def main() -> int:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF file or directory; default: the embedded pair")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has llama_cpp.server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=3, help="a client")
    parser.add_argument("--least", type=int, default=8, help="requests of a measurement, at least")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = [str(args.model)] if args.model else []
    command = [sys.executable, "-c", "from geminate.cli.app import app; app()", "serve", *model,
               "--weights", args.weights, "--port", "PORT", "--max-running", "16"]  # fmt: skip
    servers: dict[str, Server] = {}
    try:
        for way in ("off", "auto"):
            servers[way] = Server([*command, "--speculation", way], "/health/ready")
        if args.peer_python is not None:
            threads = str(os.cpu_count())
            servers["llama_cpp"] = Server(
                [str(args.peer_python), "-m", "llama_cpp.server", "--model", str(args.model), "--port", "PORT",
                 "--n_ctx", "4096", "--interrupt_requests", "False", "--n_threads", threads,
                 "--n_threads_batch", threads],
                "/v1/models",
            )  # fmt: skip
        result = measure(args, servers)
    finally:
        for server in servers.values():
            server.stop()
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if result["identical"] else 1


def measure(args: argparse.Namespace, servers: dict[str, Server]) -> dict[str, Any]:
    """All numbers of clients, kinds of prompts and ways to answer."""
    ways = list(servers)
    common = {
        "max_tokens": args.tokens,
        "temperature": 0,
        "logit_bias": {str(token): -100 for token in ENDS},
        "stream_options": {"include_usage": True},
    }
    names = {name: server.model() for name, server in servers.items()}
    rows: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    said: dict[str, str] = {}
    identical = True
    steps = len(args.clients) * 2 * len(ways) * args.repeats
    with Progress(transient=True) as bar:
        task = bar.add_task("load", total=steps)
        for repeat in range(args.repeats):
            for kind in ("mixed", "shared"):
                for clients in args.clients:
                    count = max(args.least, args.requests * clients)
                    texts = prompts(kind == "shared", f"{repeat + 1}.{clients}.", count)
                    for way in ways if repeat % 2 == 0 else ways[::-1]:
                        # llama-cpp-python answers one request at a time: its rate needs no more of them.
                        wanted = min(count, max(args.least, clients)) if way == "llama_cpp" else count
                        chosen = texts[:wanted]
                        fields = {k: v for k, v in common.items() if way != "llama_cpp" or k != "stream_options"}
                        bodies = [{**fields, "model": names[way], "prompt": text} for text in chosen]
                        answers, seconds = asyncio.run(load(servers[way].port, bodies, clients))
                        rows.setdefault((kind, clients, way), []).append(figures(answers, seconds))
                        if way != "llama_cpp":
                            for text, answer in zip(chosen, answers, strict=True):
                                identical &= said.setdefault(text, answer.text) == answer.text
                        bar.advance(task)
    result: dict[str, Any] = {
        "machine": machine.describe(), "geminate": geminate.__version__, "identical": identical,
        "model": args.model.name if args.model else "embedded", "weights": args.weights, "tokens": args.tokens,
        "repeats": args.repeats, "results": {},
    }  # fmt: skip
    for (kind, clients, way), found in rows.items():
        result["results"].setdefault(kind, {}).setdefault(str(clients), {})[way] = medians(found)
    for kind, by_clients in result["results"].items():
        one = rows[(kind, args.clients[0], "off")]
        for clients in args.clients:
            off, auto = rows[(kind, clients, "off")], rows[(kind, clients, "auto")]
            by_clients[str(clients)]["auto_over_off"] = ratio(auto, off)
            by_clients[str(clients)]["off_over_one_client"] = ratio(off, one)
            if "llama_cpp" in ways:
                by_clients[str(clients)]["auto_over_llama_cpp"] = ratio(auto, rows[(kind, clients, "llama_cpp")])
    return result


def ratio(above: list[dict[str, float]], below: list[dict[str, float]]) -> float:
    """Median over repeats of the ratio of tokens a second within a repeat."""
    pairs = zip(above, below, strict=True)
    return round(statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs), 3)


if __name__ == "__main__":
    sys.exit(main())
