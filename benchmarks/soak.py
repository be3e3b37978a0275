"""Hours of mixed good, bad and hostile load on one server: memory, descriptors, threads, lag, and every honest answer.

Usage: python benchmarks/soak.py [--seconds 3600] [--json benchmarks/soak.json]

The server has API keys and the embedded pair. Before the load every honest request is answered alone; under load each
answer (streamed or whole, speculation off, fixed and auto, greedy and sampled, with and without a grammar) must be that
one, byte for byte, or a deliberate 429 or 503. Beside four honest clients work two hostile ones: invalid and oversized
bodies, grammars that are bombs, wrong keys, raw noise, sockets that say nothing, streams cut off, readers that stop.
Marks: no 5xx but 503, no different answer, the server's resident memory (without the prefix cache, which fills its part
of the KV-cache budget) within 5 % after the first thousand requests, descriptors as at the start when the load has gone
and idle grammars are forgotten, threads within the pools' bounds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from geminate import machine

KEY = "soak-key-0123456789abcdef"
HONEST, HOSTILE = 4, 2
IDLE_S = 200.0  # until what is kept for idle connections and grammars is gone
WARM = 1_000  # requests after which memory must be flat
FLAT = 1.05  # medians of ten samples, the last over the first
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
QUESTIONS = ("Tell me a story.", "Who is at the door?", "The cat sat", "Write about rain.", "Count to ten.", "Why?")


class Soak:
    """The server, and what was seen of it."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.server = port, psutil.Process(pid)
        self.ending = threading.Event()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.different: list[str] = []
        self.requests = 0
        self._lock = threading.Lock()

    def count(self, kind: str, status: int | str) -> None:
        """Note how a request of a kind ended."""
        with self._lock:
            self.requests += 1
            self.statuses[f"{kind} {status}"] += 1

    def post(self, body: bytes, key: str = KEY, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        """Status and body of a request."""
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            conn.request("POST", path, body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
            answer = conn.getresponse()
            return answer.status, answer.read()
        finally:
            conn.close()

    def memory(self, *processes: psutil.Process) -> float:
        """Resident megabytes of processes, shared pages counted once."""
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error, OSError, StopIteration):
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def metric(self, name: str) -> float:
        """A gauge of the server."""
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        conn.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = conn.getresponse().read().decode()
        conn.close()
        found = re.search(rf"^geminate:{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the server exports no {name}")
        return float(found[1])


def honest_requests() -> list[dict[str, Any]]:
    """The requests whose answers are known."""
    found: list[dict[str, Any]] = []
    for number, question in enumerate(QUESTIONS):
        for speculation in ("off", "auto", 4):
            for temperature, seed in ((0, 1), (0.9, number)):
                body: dict[str, Any] = {
                    "model": "geminate-embedded", "messages": [{"role": "user", "content": question}],
                    "max_tokens": 24 + 8 * number, "speculation": speculation, "temperature": temperature, "seed": seed,
                }  # fmt: skip
                found.append(body)
        found.append({**found[-1], "response_format": {"type": "json_object"}})
        found.append(
            {**found[-2], "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
        )
    return found


def text_of(raw: bytes, streamed: bool) -> str:
    """The content of an answer."""
    if not streamed:
        return str(json.loads(raw)["choices"][0]["message"]["content"])
    parts = []
    for line in raw.splitlines():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                return f"error: {event['error']}"
            parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
    return "".join(parts)


def honest(soak: Soak, known: list[tuple[dict[str, Any], str]], seed: int) -> None:
    """Ask, and compare."""
    rng = random.Random(seed)
    while not soak.ending.is_set():
        body, expected = rng.choice(known)
        streamed = rng.random() < 0.5
        try:
            status, raw = soak.post(json.dumps({**body, "stream": streamed}).encode())
        except OSError as error:  # a lost connection is a lost answer
            soak.count("honest", type(error).__name__)
            continue
        soak.count("honest", status)
        if status == 200 and (text := text_of(raw, streamed)) != expected:
            soak.different.append(f"{json.dumps(body)}: {text[:200]!r} instead of {expected[:200]!r}")
        elif status in (429, 503):
            time.sleep(0.05)


def _chat(**more: Any) -> bytes:
    body = {"model": "geminate-embedded", "messages": [{"role": "user", "content": "Go."}], "max_tokens": 40, **more}
    return json.dumps(body).encode()


def _schema(schema: dict[str, Any]) -> bytes:
    return _chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def _lark(text: str) -> bytes:
    return _chat(response_format={"type": "grammar", "grammar": text})


def hostile_bodies(rng: random.Random) -> bytes:
    """A request that should be refused, or cost little."""
    number = rng.randrange(1 << 30)
    rules = "start: r0\n" + "\n".join(f"r{i}: r{i + 1} | r{i + 1} r{i + 1}" for i in range(900)) + '\nr900: "a"'
    alternatives = "start: " + " | ".join(f"T{i}" for i in range(150)) + "\n"
    alternatives += "\n".join(f"T{i}: /(?s:.)*[a-z](?s:.){{7}}x{i}/" for i in range(150))
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: _chat(messages=[{"role": "user", "content": ""}] * 50_000),
        lambda: b'{"prompt": [' + b",".join([b"-1"] * 400_000) + b"]}",
        lambda: _chat(messages=[{"role": "user", "content": "word " * 300_000}]),
        lambda: _chat(**{f"unknown_{i}": 1 for i in range(5_000)}),
        lambda: b"x" * (5 << 20),
        lambda: bytes(rng.randrange(256) for _ in range(200)),
        lambda: b"[" * 50_000,
        lambda: _schema({"type": "integer", "multipleOf": rng.choice((99_999_989, 9_973)), "description": str(number)}),
        lambda: _schema({"anyOf": [{"const": f"{number}-{i}"} for i in range(800)]}),
        lambda: _lark(f"// {number}\n{rules}"),
        lambda: _lark(f"// {number}\n{alternatives}"),
        lambda: _chat(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(200)]),
        lambda: _chat(temperature=-1, seed="x", n=10**9),
    )
    return rng.choice(choices)()


def hostile(soak: Soak, seed: int) -> None:
    """Every kind of bad manners in turn."""
    rng = random.Random(seed)

    def body() -> None:
        status, _ = soak.post(hostile_bodies(rng))
        soak.count("hostile", status)

    def wrong_key() -> None:
        status, _ = soak.post(_chat(), key="wrong-key-0123456789")
        soak.count("wrong key", status)

    def noise() -> None:
        with socket.create_connection(("127.0.0.1", soak.port), timeout=10) as s:
            s.sendall(
                rng.choice((b"\x00\xff" * 400, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n"))
            )
            s.settimeout(0.2)
            with contextlib.suppress(OSError):
                s.recv(4096)
        soak.count("noise", "sent")

    def silence() -> None:
        sockets = [socket.create_connection(("127.0.0.1", soak.port), timeout=10) for _ in range(20)]
        time.sleep(0.2)
        for s in sockets:
            s.close()
        soak.count("silence", "sent")

    def cut_off() -> None:
        conn = http.client.HTTPConnection("127.0.0.1", soak.port, timeout=60)
        conn.request(
            "POST", "/v1/chat/completions", _chat(stream=True, max_tokens=1500, ignore_eos=True),
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )  # fmt: skip
        answer = conn.getresponse()
        answer.read(rng.randrange(1, 3000))
        if rng.random() < 0.2:
            time.sleep(0.5)  # a reader that stops for a while
        conn.close()
        soak.count("cut off", answer.status)

    kinds = (body, body, body, wrong_key, noise, silence, cut_off)
    while not soak.ending.is_set():
        kind = rng.choice(kinds)
        try:
            kind()
        except (OSError, http.client.HTTPException):
            soak.count(kind.__name__, "connection closed")
        time.sleep(rng.random() * 0.1)


def sample(soak: Soak) -> dict[str, float]:
    """The server's figures at a moment."""
    prefixes = soak.metric("prefix_cache_bytes") / 2**20
    return {
        "requests": soak.requests,
        "memory_mb": round(soak.memory(soak.server) - prefixes, 1),
        "prefix_cache_mb": round(prefixes, 1),
        "grammars_mb": round(soak.memory(*soak.server.children(recursive=True)), 1),
        "descriptors": soak.server.num_fds(),
        "threads": soak.server.num_threads(),
        "lag_ms": round(1e3 * soak.metric("event_loop_lag_max_seconds"), 1),
    }


def start(keys: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server on a free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-c", "from geminate.cli.app import app; app()", "serve", "--port", str(port),
         "--api-key-file", str(keys)],
        stderr=keys.with_name("log").open("wb"),
    )  # fmt: skip
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            conn = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            conn.request("GET", "/health/ready", headers={"Authorization": f"Bearer {KEY}"})
            if conn.getresponse().status == 200:
                return process, port
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {keys.with_name('log').read_text()[-2000:]}")


def growth(warm: list[float]) -> float | None:
    """Median of the last ten samples over that of the first ten."""
    return round(statistics.median(warm[-10:]) / statistics.median(warm[:10]), 3) if warm else None


def run(soak: Soak, seconds: float) -> dict[str, Any]:
    """The load, and the marks."""
    known = []
    for body in honest_requests():
        status, raw = soak.post(json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"a lone request ended with {status}: {raw[:300]!r}")
        known.append((body, text_of(raw, False)))
    time.sleep(2)
    before = sample(soak)
    threads = [threading.Thread(target=honest, args=(soak, known, i), daemon=True) for i in range(HONEST)]
    threads += [threading.Thread(target=hostile, args=(soak, 100 + i), daemon=True) for i in range(HOSTILE)]
    for thread in threads:
        thread.start()
    samples: list[dict[str, float]] = []
    began, interval = time.monotonic(), max(2.0, seconds / 120)
    with Progress(transient=True) as progress:
        task = progress.add_task("soak", total=seconds)
        try:
            while (spent := time.monotonic() - began) < seconds and soak.server.is_running():
                progress.update(task, completed=spent)
                time.sleep(min(interval, seconds - spent))
                samples.append({"seconds": round(time.monotonic() - began), **sample(soak)})
        except KeyboardInterrupt:
            pass  # the figures so far
    soak.ending.set()
    for thread in threads:
        thread.join(120)
    until = time.monotonic() + IDLE_S
    while (after := sample(soak))["descriptors"] > before["descriptors"] and time.monotonic() < until:
        time.sleep(5)
    warm = [s["memory_mb"] for s in samples if s["requests"] >= WARM]
    bad = {k: n for k, n in soak.statuses.items() if k.rsplit(" ", 1)[1] in ("500", "502", "504")}
    return {
        "seconds": round(time.monotonic() - began),
        "requests": soak.requests,
        "statuses": dict(sorted(soak.statuses.items())),
        "different": soak.different[:20],
        "bad": bad,
        "memory_mb": {
            "idle": before["memory_mb"],
            "warm": warm[:1],
            "peak": max(warm, default=0.0),
            "end": after["memory_mb"],
            "last_over_first_ten": growth(warm),
        },
        "prefix_cache_mb": after["prefix_cache_mb"],
        "grammars_mb": {
            "idle": before["grammars_mb"],
            "peak": max((s["grammars_mb"] for s in samples), default=0.0),
            "end": after["grammars_mb"],
        },
        "descriptors": [before["descriptors"], after["descriptors"]],
        "threads": [before["threads"], after["threads"]],
        "lag_ms": {
            "median": sorted(s["lag_ms"] for s in samples)[len(samples) // 2] if samples else None,
            "max": max((s["lag_ms"] for s in samples), default=None),
        },
        "samples": samples,
    }


def main() -> int:
    """Run, print the figures and one JSON line; status 1 if a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        keys.write_text(KEY + "\n")
        keys.chmod(0o600)
        process, port = start(keys)
        try:
            found = run(Soak(port, process.pid), args.seconds)
            process.send_signal(signal.SIGTERM)
            found["exit"] = process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
        result = {"benchmark": "soak", "machine": machine.describe(), "cores": os.cpu_count(), **found}
        if args.json:
            args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
        print(json.dumps({k: v for k, v in result.items() if k != "samples"}))
        flat = (found["memory_mb"]["last_over_first_ten"] or 0.0) <= FLAT
        return 0 if flat and not found["different"] and not found["bad"] and found["exit"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
