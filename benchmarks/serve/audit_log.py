"""What an audit log costs a server: the same load with none, with hashes, and with ids forced to the disk each time.

Usage: python benchmarks/serve/audit_log.py [--model FILE] [--json FILE]

A server for each way; they take turns within every repeat, in an order that turns from repeat to repeat. Ratios are
taken within a repeat; the median and the range of all repeats are shown, and beside them the ratio of two servers
without a log, which is what such a ratio is worth here. The embedded pair, the default, is the worst case: its answers
are so fast that a request's overhead counts more than anywhere else. The server's processor time depends least on what
else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from load import ENDS, Server, figures, prompts
from rich.progress import Progress
from sse_client import load

import geminate
from geminate import machine

WAYS: dict[str, list[str]] = {
    "none": [],
    "none_again": [],
    "hashes": ["--audit-log", "LOG"],
    "ids": ["--audit-log", "LOG", "--audit-content", "ids"],
    "ids_always": ["--audit-log", "LOG", "--audit-content", "ids", "--audit-fsync", "always"],
}
FIGURES = ("cpu_ms_a_request", "tokens_per_s", "ttft_ms_p50", "gap_ms_p99")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF file or directory; default: the embedded pair")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64, help="of a measurement")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = [str(args.model)] if args.model else []
    command = [sys.executable, "-c", "from geminate.cli.app import app; app()", "serve", *model, "--port", "PORT",
               "--threads", "1"]  # fmt: skip
    servers: dict[str, Server] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for way, flags in WAYS.items():
                named = [flag.replace("LOG", f"{folder}/{way}.log") for flag in flags]
                servers[way] = Server([*command, *named], "/health/ready")
            rows = measure(args, servers)
        finally:
            for server in servers.values():
                server.stop()
        sizes = {
            way: Path(f"{folder}/{way}.log").stat().st_size for way in WAYS if Path(f"{folder}/{way}.log").exists()
        }
    count = args.requests * (args.repeats + 1)
    result: dict[str, Any] = {
        "benchmark": "audit_log", "machine": machine.describe(), "geminate": geminate.__version__,
        "model": args.model.name if args.model else "embedded", "clients": args.clients, "tokens": args.tokens,
        "repeats": args.repeats, "bytes_a_request": {way: round(size / count) for way, size in sizes.items()},
        "results": {way: {name: round(statistics.median(row[name] for row in found), 3) for name in FIGURES}
                    for way, found in rows.items()},
        "over_none": {way: {name: compared(rows[way], rows["none"], name) for name in FIGURES}
                      for way in WAYS if way != "none"},
    }  # fmt: skip
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


def measure(args: argparse.Namespace, servers: dict[str, Server]) -> dict[str, list[dict[str, float]]]:
    """The figures of every repeat by way; the first one warms up."""
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in servers}
    common = {
        "temperature": 0.8, "seed": 3, "max_tokens": args.tokens,
        "logit_bias": {str(token): -100 for token in ENDS}, "stream_options": {"include_usage": True},
    }  # fmt: skip
    with Progress(transient=True) as bar:
        task = bar.add_task("load", total=(args.repeats + 1) * len(servers))
        for repeat in range(args.repeats + 1):
            texts = prompts(False, f"{repeat}.", args.requests)
            for way in list(servers) if repeat % 2 else list(servers)[::-1]:
                name = servers[way].model()
                bodies = [{**common, "model": name, "prompt": text} for text in texts]
                before = cpu_seconds(servers[way].process.pid)
                answers, seconds = asyncio.run(load(servers[way].port, bodies, args.clients))
                spent = cpu_seconds(servers[way].process.pid) - before
                if repeat:
                    rows[way].append(figures(answers, seconds) | {"cpu_ms_a_request": 1e3 * spent / len(bodies)})
                bar.advance(task)
    return rows


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def compared(above: list[dict[str, float]], below: list[dict[str, float]], name: str) -> list[float]:
    """Median, least and largest ratio of a figure over the repeats."""
    ratios = [a[name] / b[name] for a, b in zip(above, below, strict=True)]
    return [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]


if __name__ == "__main__":
    sys.exit(main())
