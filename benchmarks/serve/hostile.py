"""A stream beside hostile clients: its rate and its longest gap, while four clients repeat dear grammars.

Usage: python benchmarks/serve/hostile.py [--seconds 8] [--json OUT]

Each kind of grammar has a server of its own (the embedded pair). Four clients repeat requests with the grammar, each
time varied so that it must be compiled anew; a victim streams a plain completion over and over. Every kind takes turns
with four clients that send the same requests without a grammar: "share" is the rate in
chunks a second against that one. Also: what requests of the kind were answered, the longest gap between two chunks, the
longest lag of the server's event loop, and the peak memory of the server and its grammar processes above idle.
Marks: share at least 0.7, gap under 150 ms, lag at most 100 ms, memory at most 200 MB.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load import Server
from rich.console import Console
from rich.progress import track

from geminate import machine

CLIENTS = 4
Form = Callable[[int], dict[str, Any] | None]


def _schema(schema: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {**schema, "description": f"variant {number}"}},
    }


def _lark(text: str, number: int) -> dict[str, Any]:
    return {"type": "grammar", "grammar": f"// variant {number}\n{text}"}


def _objects(count: int) -> list[dict[str, Any]]:
    return [
        {"type": "object", "properties": {f"k{i}": {"type": "integer"}}, "required": [f"k{i}"]} for i in range(count)
    ]


_ALTERNATIVES = "start: " + " | ".join(f"T{i}" for i in range(150)) + "\n"
_ALTERNATIVES += "\n".join(f"T{i}: /(?s:.)*[a-z](?s:.){{7}}x{i}/" for i in range(150))
_RULES = "start: r0\n" + "\n".join(f"r{i}: r{i + 1} | r{i + 1} r{i + 1}" for i in range(900)) + '\nr900: "a"'
_INTERSECTIONS = " & ".join(f"/(?s:.*[a-z ]{{{i}}}.*)/" for i in range(1, 16))
_CLOSED = {f"p{i}": {"type": "string"} for i in range(480)}
_OPEN = {f"property_{i}": {"type": "integer"} for i in range(2_000)}
_FEWER = dict(list(_OPEN.items())[:950])
KINDS: dict[str, Form] = {
    "no grammar": lambda n: None,
    "json_object": lambda n: {"type": "json_object"},
    "480 closed properties": lambda n: _schema(
        {"type": "object", "properties": _CLOSED, "additionalProperties": False}, n
    ),
    "150 alternatives": lambda n: _lark(_ALTERNATIVES, n),
    "literal of 60,000": lambda n: _lark('start: T+\nT: "' + "ab" * 30_000 + '"', n),
    "800 anyOf": lambda n: _schema({"anyOf": _objects(800)}, n),
    "900 rules": lambda n: _lark(_RULES, n),
    "2,000 properties": lambda n: _schema({"type": "object", "properties": _OPEN}, n),
    "950 properties": lambda n: _schema({"type": "object", "properties": _FEWER}, n),
    "multipleOf 9,973": lambda n: _schema({"type": "integer", "multipleOf": 9_973}, n),
    "15 intersections": lambda n: _lark(f"start: T\nT: {_INTERSECTIONS}", n),
}


def post(port: int, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of a chat request."""
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        conn.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = conn.getresponse()
        return answer.status, answer.read()
    finally:
        conn.close()


def victim(port: int, until: float) -> list[float]:
    """Times of the chunks that a stream received, one completion after the other."""
    times: list[float] = []
    while time.monotonic() < until:
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {
            "model": "geminate-embedded", "messages": [{"role": "user", "content": "Tell a story."}], "stream": True,
            "max_tokens": 1500, "ignore_eos": True, "speculation": "off",
        }  # fmt: skip
        conn.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        for line in conn.getresponse():
            if line.startswith(b"data: {"):
                times.append(time.monotonic())
            if time.monotonic() > until:
                break
        conn.close()
    return times


def resident(pid: int) -> float:
    """MB of the server and what it started, by Pss where the kernel tells it."""
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = (
        {int(a): int(b) for a, b in itertools.batched(rows, 2)}
        if sys.version_info >= (3, 12)
        else {int(rows[i]): int(rows[i + 1]) for i in range(0, len(rows), 2)}
    )
    family = {pid}
    for _ in range(4):
        family |= {child for child, parent in parents.items() if parent in family}
    total = 0
    for member in family:
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def lag(port: int) -> float:
    """The longest lag of the event loop in the last minute, in milliseconds, as the server measures it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("geminate:event_loop_lag_max_seconds "):
                return 1e3 * float(line.split()[1])
    raise RuntimeError("the server exports no event loop lag")


def attack(port: int, pid: int, form: Form, seconds: float) -> dict[str, Any]:
    """One turn: the victim's rate and longest gap, the hostile requests' statuses, the peak memory."""
    until = time.monotonic() + seconds
    statuses: collections.Counter[int] = collections.Counter()
    numbers = itertools.count(int(time.time() * 1000))
    peak = [0.0]

    def hostile() -> None:
        while time.monotonic() < until:
            body: dict[str, Any] = {
                "model": "geminate-embedded", "messages": [{"role": "user", "content": "Go."}], "max_tokens": 60,
            }  # fmt: skip
            wanted = form(next(numbers))
            if wanted is not None:
                body["response_format"] = wanted
            status, _ = post(port, body)
            statuses[status] += 1

    def memory() -> None:
        while time.monotonic() < until:
            peak[0] = max(peak[0], resident(pid))
            time.sleep(1.0)

    threads = [threading.Thread(target=hostile) for _ in range(CLIENTS)] + [threading.Thread(target=memory)]
    for thread in threads:
        thread.start()
    times = victim(port, until)
    for thread in threads:
        thread.join()
    gaps = [1e3 * (b - a) for a, b in itertools.pairwise(times)]
    return {
        "rate": len(times) / seconds,
        "gap": max(gaps, default=1e3 * seconds),
        "statuses": dict(statuses),
        "peak": peak[0],
    }


def main() -> int:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    err = Console(stderr=True)
    for kind in track(args.kinds, transient=True, console=err):
        form = KINDS[kind]
        server = Server(
            [sys.executable, "-c", "from geminate.cli.app import app; app()", "serve", "--port", "PORT"],
            "/health/ready",
        )
        try:
            post(server.port, {"model": "geminate-embedded", "messages": [{"role": "user", "content": "Hi"}]})
            time.sleep(1.0)
            idle = resident(server.process.pid)
            turns = [
                (
                    attack(server.port, server.process.pid, KINDS["no grammar"], args.seconds),
                    attack(server.port, server.process.pid, form, args.seconds),
                )
                for _ in range(args.repeats)
            ]
            rows[kind] = {
                "plain_rate": round(statistics.median(plain["rate"] for plain, _ in turns), 1),
                "rate": round(statistics.median(found["rate"] for _, found in turns), 1),
                "share": round(statistics.median(found["rate"] / plain["rate"] for plain, found in turns), 3),
                "gap_ms": round(statistics.median(found["gap"] for _, found in turns), 1),
                "plain_gap_ms": round(statistics.median(plain["gap"] for plain, _ in turns), 1),
                "lag_ms": round(lag(server.port), 1),
                "memory_mb": round(max(found["peak"] for _, found in turns) - idle, 1),
                "statuses": turns[-1][1]["statuses"],
            }
        finally:
            server.stop()
        print(f"{kind:24} {rows[kind]}")
    result = {"benchmark": "hostile", "machine": machine.describe(), "seconds": args.seconds, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
