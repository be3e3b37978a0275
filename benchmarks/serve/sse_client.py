"""A client that costs little: it shares the processor with the server it measures, so it only notes when lines came."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One streamed completion. Times in seconds on `time.perf_counter`.

    Attributes:
        times: when each chunk that carries text arrived. tokens: as the server counts them, else chunks.
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
        """Seconds between chunks."""
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
        lines: list[tuple[float, bytes]] = []
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r}: {(await reader.read())[-500:]!r}")
        # Every event is written whole, so a line of the chunked encoding never cuts one.
        while line := await reader.readline():
            if line.startswith(b"data: "):
                lines.append((time.perf_counter(), line[6:]))
    finally:
        writer.close()
    if not lines or lines[-1][1].strip() != b"[DONE]":
        raise RuntimeError("the stream broke off")
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
            answer.text += text
            answer.times.append(at)
    answer.tokens = answer.tokens or len(answer.times)
    if not answer.times:
        raise RuntimeError("an answer without text")
    return answer


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
