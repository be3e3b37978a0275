"""Streams through a fleet whose replicas are killed at random moments: every answer is that of an undisturbed run.

Usage: python benchmarks/fleet/soak.py [--seconds 3600] [--json benchmarks/fleet/soak.json]

Two replicas of the embedded pair. Two hundred requests (greedy, sampled, penalties, JSON schema, tools, stop strings,
log-probabilities, two choices) are answered once while nothing goes wrong; then eight clients ask them again and again
while a replica is killed with -9 every few seconds, and now and then stopped instead. Marks: no stream lost, none
different, none without its end or with two.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.progress import Progress
from started import Started

from geminate import machine

REQUESTS, CLIENTS = 200, 8
EVERY_S = (3.0, 12.0)  # between two deaths
STOPPED = 0.15  # share of deaths by SIGSTOP
STALL_S = 5.0
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 200}, "n": {"type": "integer", "maximum": 9}},
    "required": ["title", "n"],
    "additionalProperties": False,
}
KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.9},
    {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    {"temperature": 1.0, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {
        "temperature": 1.0,
        "tools": [{"type": "function", "function": {"name": "write", "parameters": SCHEMA}}],
        "tool_choice": "required",
    },
    {"temperature": 0.9, "stop": ["the river", "!"]},
    {"temperature": 0.7, "logprobs": True, "n": 2},
)


def request(number: int) -> dict[str, Any]:
    """Request ``number``; always the same."""
    return {
        "model": "geminate-embedded",
        "messages": [{"role": "user", "content": f"Tell me story number {number}."}],
        "max_tokens": 100 + 37 * number % 400,
        "seed": number,
        "speculation": ("auto", "off", 3)[number % 3],
        "stream": True,
        "stream_options": {"include_usage": True},
        **KINDS[number % len(KINDS)],
    }


def answer(port: int, number: int) -> str:
    """What a stream says, however it was cut into events: text, calls, log-probabilities and end of each choice.

    Raises:
        ValueError: it is not whole.
    """
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        conn.request("POST", "/v1/chat/completions", json.dumps(request(number)), {"Content-Type": "application/json"})
        raw = conn.getresponse()
        text = raw.read().decode()
    finally:
        conn.close()
    if raw.status != 200:
        raise ValueError(f"status {raw.status}: {text[:200]}")
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if lines.count("[DONE]") != 1 or lines[-1] != "[DONE]":
        raise ValueError(f"{lines.count('[DONE]')} ends")
    texts: dict[int, list[str]] = collections.defaultdict(lambda: [""] * 4)
    usage = None
    for event in map(json.loads, lines[:-1]):
        if "error" in event:
            raise ValueError(str(event["error"]))
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            parts = texts[choice["index"]]
            delta = choice["delta"]
            parts[0] += delta.get("content") or ""
            parts[1] += "".join(call["function"].get("arguments", "") for call in delta.get("tool_calls") or ())
            parts[2] += "".join(map(json.dumps, (choice.get("logprobs") or {}).get("content") or ()))
            parts[3] += choice.get("finish_reason") or ""
    return json.dumps([dict(texts), usage and usage["completion_tokens"]], sort_keys=True)


class Soak:
    """The fleet, and what was seen of it."""

    def __init__(self, fleet: Started, known: list[str]) -> None:
        self.fleet, self.known = fleet, known
        self.ending = threading.Event()
        self.answers = self.killed = self.stopped = 0
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def ask(self, seed: int) -> None:
        """A client."""
        rng = random.Random(seed)
        while not self.ending.is_set():
            number = rng.randrange(REQUESTS)
            began = time.monotonic()
            try:
                made = answer(self.fleet.port, number)
                wrong = None if made == self.known[number] else f"{number}: another answer: {made[:300]}"
            except (OSError, ValueError, http.client.HTTPException) as error:
                wrong = f"{number}: {type(error).__name__}: {error}"
            with self._lock:
                self.answers += 1
                self.seconds.append(time.monotonic() - began)
                if wrong is not None:
                    self.wrong.append(wrong)

    def kill(self, seed: int) -> None:
        """What goes wrong."""
        rng = random.Random(seed)
        while not self.ending.wait(rng.uniform(*EVERY_S)):
            living = self.fleet.replicas()
            if len(living) < 2:
                continue
            victim = rng.choice(living)
            if rng.random() < STOPPED:
                os.kill(victim, signal.SIGSTOP)
                self.ending.wait(3 * STALL_S)
                self.stopped += 1
            else:
                self.killed += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)


def main() -> int:
    """Soak; exit code 1 where a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = Path("build") / "fleet-soak.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(f"[fleet]\nstall_seconds = {STALL_S}\nretries = 20\n[[model]]\nreplicas = 2\nthreads = 1\n")
    with Started("fleet", "up", "--config", str(config)) as fleet, Progress(transient=True) as progress:
        bar = progress.add_task("undisturbed", total=REQUESTS)
        known = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            for made in pool.map(lambda number: answer(fleet.port, number), range(REQUESTS)):
                known.append(made)
                progress.advance(bar)
        soak = Soak(fleet, known)
        threads = [threading.Thread(target=soak.ask, args=(seed,)) for seed in range(CLIENTS)]
        threads.append(threading.Thread(target=soak.kill, args=(100,)))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        bar = progress.add_task("soak", total=args.seconds)
        while (took := time.monotonic() - began) < args.seconds:
            progress.update(bar, completed=took, description=f"{soak.answers} answers, {len(soak.wrong)} wrong")
            time.sleep(1)
        soak.ending.set()
        for thread in threads:
            thread.join()
        metrics = fleet.metrics()
    result = {
        "machine": machine.describe(), "seconds": round(took), "streams": soak.answers, "wrong": soak.wrong[:20],
        "killed": soak.killed, "stopped": soak.stopped,
        "streams_that_lost_a_replica": int(metrics.get("geminate:fleet_lost_streams_total", 0)),
        "median_seconds": round(statistics.median(soak.seconds), 3), "longest_seconds": round(max(soak.seconds), 1),
        "ok": not soak.wrong and soak.killed > 0,
    }  # fmt: skip
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
