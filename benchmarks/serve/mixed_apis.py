"""Requests over all APIs at once, a third of them cut off by their clients: nothing is lost, and memory is flat.

Usage: python benchmarks/serve/mixed_apis.py [--requests 2000] [--clients 48] [--no-memory] [--json OUT]

One server with the embedded pair. Every request is one of some conversations or texts with a seed, sent to
``/v1/chat/completions``, ``/v1/completions``, ``/v1/responses``, ``/v1/messages``, ``/api/chat`` or ``/api/generate``,
streamed or whole, with speculation off or on. Before the load each is answered alone by OpenAI's route; under load
every answer must have the same token ids, whichever API carried it. A third is cut off: the client closes the
connection after some bytes, or after some time. Marks: no answer is lost or different, no status but 200, nothing runs
or waits in the end, and the server's resident memory, without the prefix cache, at the end is within 5 % of what it was
after half of the requests.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Server

from geminate import machine

MODEL = "geminate-embedded"
QUESTIONS = ("Tell me a story.", "Who is at the door?", "The cat sat", "Write about rain.", "Count to ten.", "Why?")
FLAT = 1.05
PATIENCE_S = 120.0
QUIET_S = 60.0


@dataclass(frozen=True)
class Case:
    """A question or a text to continue, and how it is sampled."""

    text: str
    raw: bool
    seed: int
    tokens: int


CASES = [
    Case(text, raw, seed, tokens) for seed, text in enumerate(QUESTIONS) for raw in (False, True) for tokens in (12, 40)
]


def shaped(path: str, case: Case, speculation: Any, stream: bool) -> dict[str, Any]:
    """The body of a request to a route."""
    body: dict[str, Any] = {"model": MODEL, "speculation": speculation, "trace": True, "stream": stream}
    messages = [{"role": "user", "content": case.text}]
    if path.startswith("/api/"):
        body["options"] = {"seed": case.seed, "num_predict": case.tokens, "temperature": 0.8}
        return body | ({"prompt": case.text, "raw": True} if case.raw else {"messages": messages})
    body |= {"seed": case.seed, "temperature": 0.8}
    if path == "/v1/responses":
        return {**body, "input": case.text, "max_output_tokens": case.tokens}
    body["max_tokens"] = case.tokens
    return body | ({"prompt": case.text} if path == "/v1/completions" else {"messages": messages})


PATHS = {
    False: ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"),
    True: ("/v1/completions", "/api/generate"),
}


def token_ids(raw: bytes) -> list[int]:
    """The ids in the trace of an answer, whole or streamed.

    Raises:
        ValueError: an answer without one, or with an error.
    """
    events = []
    for line in raw.splitlines():
        text = line.removeprefix(b"data: ").strip()
        if text.startswith(b"{"):
            events.append(json.loads(text))
    if not events or any(event.get("error") or event.get("type") == "error" for event in events):
        raise ValueError(f"no answer: {raw[-300:]!r}")
    last = events[-1].get("response", events[-1]) if isinstance(events[-1].get("response"), dict) else events[-1]
    whole = [event["geminate"] for event in (last, *events[-2:]) if "rounds" in event.get("geminate", {})]
    rounds = whole[0]["rounds"] if whole else [event["geminate"] for event in events if "geminate" in event]
    if not rounds:
        raise ValueError(f"no trace: {raw[-300:]!r}")
    return [token["id"] for one in rounds for token in one["tokens"]]


class Load:
    """The server, and what was seen of it."""

    def __init__(self, port: int, pid: int, *, memory: bool) -> None:
        self.port, self.pid, self.memory = port, pid, memory
        self.statuses: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.done = 0
        self.half_mb: float | None = None
        self._lock = threading.Lock()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of a request."""
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            conn.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = conn.getresponse()
            return answer.status, answer.read()
        finally:
            conn.close()

    def cut_off(self, path: str, body: dict[str, Any], rng: random.Random) -> None:
        """Begin a long answer and leave."""
        for place in (body, body.get("options", {})):
            for name in ("max_tokens", "max_output_tokens", "num_predict"):
                if name in place:
                    place[name] = 1000
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            conn.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            if body["stream"]:
                answer = conn.getresponse()
                self.note(path, answer.status, None if answer.status == 200 else "refused")
                answer.read(rng.randrange(1, 2000))
            else:
                time.sleep(rng.random() * 0.3)
        finally:
            conn.close()

    def note(self, path: str, status: int | str, fault: str | None = None) -> None:
        """Count an answer."""
        with self._lock:
            self.statuses[f"{path} {status}"] += 1
            if fault is not None:
                self.faults.append(f"{path}: {fault}"[:400])

    def finished(self, total: int) -> None:
        """One request is over; at half of them the memory is noted."""
        with self._lock:
            self.done += 1
            half = self.memory and self.done == total // 2
        if half:
            self.half_mb = self.resident()

    def resident(self) -> float:
        """Resident megabytes of the server without its prefix cache, shared pages counted once."""
        [kept] = self.gauges("prefix_cache_bytes")
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii")
        kilobytes = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return kilobytes / 1024 - kept / 2**20

    def gauges(self, *names: str) -> list[float]:
        """Gauges of the server."""
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        conn.request("GET", "/metrics")
        lines = conn.getresponse().read().decode().splitlines()
        conn.close()
        return [next(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(f"geminate:{n}")) for n in names]


def client(load: Load, work: collections.deque[int], known: dict[Case, list[int]], total: int) -> None:
    """One client: takes the next number, sends the request it stands for, and compares."""
    while True:
        try:
            number = work.popleft()
        except IndexError:
            return
        rng = random.Random(number)
        case = rng.choice(CASES)
        path = rng.choice(PATHS[case.raw])
        body = shaped(path, case, rng.choice(("off", "auto", 3)), rng.random() < 0.5)
        try:
            if number % 3 == 0:
                load.cut_off(path, body, rng)
            else:
                status, raw = load.post(path, body)
                fault = None if status == 200 else f"{status} {raw[:200]!r}"
                if fault is None and (found := token_ids(raw)) != known[case]:
                    fault = f"{json.dumps(body)}: {found} instead of {known[case]}"
                load.note(path, status, fault)
        except (OSError, ValueError, http.client.HTTPException) as error:
            load.note(path, type(error).__name__, str(error))
        load.finished(total)


def run(load: Load, requests: int, clients: int) -> dict[str, Any]:
    """The load, and its figures."""
    known = {}
    for case in CASES:
        path = PATHS[case.raw][0]
        status, raw = load.post(path, shaped(path, case, "off", False))
        if status != 200:
            raise RuntimeError(f"a lone request ended with {status}: {raw[:300]!r}")
        known[case] = token_ids(raw)
    work = collections.deque(range(requests))
    threads = [threading.Thread(target=client, args=(load, work, known, requests)) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    until = time.monotonic() + QUIET_S
    busy = ("num_requests_running", "num_requests_waiting")
    while any(left := load.gauges(*busy)) and time.monotonic() < until:
        time.sleep(0.1)
    end_mb = load.resident() if load.memory else None
    marks = {
        "nothing lost or different": not load.faults,
        "all answered": load.done == requests,
        "status 200 alone": all(name.endswith(" 200") for name in load.statuses),
        "nothing left": not any(left),
    }
    if end_mb is not None and load.half_mb is not None:
        marks["memory flat"] = end_mb <= FLAT * load.half_mb
    return {
        "requests": requests,
        "clients": clients,
        "cut_off": (requests + 2) // 3,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(load.statuses.items())),
        "faults": load.faults[:20],
        "memory_mb": {"half": load.half_mb and round(load.half_mb, 1), "end": end_mb and round(end_mb, 1)},
        "marks": marks,
        "machine": machine.describe(),
    }


def errors(server: Server) -> list[str]:
    """The server's log lines of errors, the first ten."""
    server.log.seek(0)
    return [line.decode(errors="replace").strip() for line in server.log if b'"level": "error"' in line][:10]


def main() -> int:
    """Run, and print the figures as JSON; status 1 if a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    code = "from geminate.cli.app import app; app()"
    flags = ["--max-waiting", str(max(64, 4 * args.clients))]
    server = Server([sys.executable, "-c", code, "serve", "--port", "PORT", *flags], "/health/ready")
    try:
        load = Load(server.port, server.process.pid, memory=not args.no_memory)
        figures = run(load, args.requests, args.clients)
        figures["errors"] = errors(server)
    finally:
        with contextlib.suppress(Exception):
            server.stop()
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))
    return 0 if all(figures["marks"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
