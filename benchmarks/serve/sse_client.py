"""A client that costs little: it shares the processor with the server it measures, so it only notes when lines came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One streamed completion. Times in seconds on `time.perf_counter`.

    Attributes:
        times: when text arrived. tokens: as the server counts them, else events with text.
    """

    began: float
    times: list[float] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    timings: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.times[0] - self.began

    @property
    def seconds(self) -> float:
        """Seconds to the last text."""
        return self.times[-1] - self.began

    @property
    def per_token(self) -> float:
        """Seconds a token after the first."""
        return (self.times[-1] - self.times[0]) / max(1, self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between arrivals of text."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


async def complete(port: int, body: dict[str, Any]) -> Answer:
    """POST /v1/completions with streaming.

    Raises:
        RuntimeError: any answer but a complete stream.
    """
    payload = json.dumps({**body, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode() + payload)
        answer = Answer(began=time.perf_counter())
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r}: {(await reader.read())[-500:]!r}")
        arrivals: list[tuple[float, bytes]] = []
        while data := await reader.read(1 << 16):
            arrivals.append((time.perf_counter(), data))
    finally:
        writer.close()
    lines = list(_events(arrivals))
    if not lines or lines[-1][1] != b"[DONE]":
        raise RuntimeError("the stream broke off")
    chunks = 0
    for at, line in lines[:-1]:
        chunk = json.loads(line)
        if "error" in chunk:
            raise RuntimeError(str(chunk["error"]))
        if chunk.get("usage"):
            answer.tokens = chunk["usage"]["completion_tokens"]
            answer.prompt_tokens = chunk["usage"]["prompt_tokens"]
        answer.timings = chunk.get("timings") or answer.timings
        text = "".join(choice.get("text") or "" for choice in chunk["choices"])
        if text:
            chunks += 1
            answer.text += text
            if not answer.times or answer.times[-1] != at:
                answer.times.append(at)
    answer.tokens = answer.tokens or chunks
    if not answer.times:
        raise RuntimeError("an answer without text")
    return answer


def _events(arrivals: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """(arrival of its end, data) of every event. Servers write events whole, so chunk sizes never cut a line."""
    rest = b""
    for at, data in arrivals:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield at, line[6:].strip()


async def load(port: int, bodies: list[dict[str, Any]], clients: int) -> tuple[list[Answer], float]:
    """``bodies`` through ``clients`` clients, each sending its next when its last is answered; answers and seconds."""
    waiting = list(reversed(list(enumerate(bodies))))
    answers: dict[int, Answer] = {}

    async def client() -> None:
        while waiting:
            index, body = waiting.pop()
            answers[index] = await complete(port, body)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return [answers[i] for i in range(len(bodies))], time.perf_counter() - began
