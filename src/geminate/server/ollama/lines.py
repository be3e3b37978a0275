"""Chunks as Ollama's answers: one JSON object, or one a line, the last with the counts and durations."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from geminate.server.chunks import Chunk
from geminate.server.http.errors import ApiError, ollama_error
from geminate.server.openai.choice import Choice
from geminate.server.openai.generation import Generation
from geminate.server.openai.tokens import chat_logprobs, trace
from geminate.server.state import Model

Line = dict[str, Any]
NDJSON = "application/x-ndjson"


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def encoded(line: Line) -> bytes:
    """One line of a stream."""
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def said(chat: bool, content: str, thinking: str, calls: list[dict[str, Any]]) -> Line:
    """The fields of a part of an answer, of ``/api/chat`` or ``/api/generate``."""
    thought = {"thinking": thinking} if thinking else {}
    if not chat:
        return {"response": content, **thought}
    called = {"tool_calls": calls} if calls else {}
    return {"message": {"role": "assistant", "content": content, **thought, **called}}


class Lines:
    """Turns a generation's chunks into lines.

    Args:
        name: the model's name, as in the request. chat: whether it is ``/api/chat``.
        began: `time.perf_counter` when the request came. logprobs, traced: what to add.
    """

    def __init__(
        self, model: Model, generation: Generation, *, name: str, chat: bool, began: float, logprobs: bool, traced: bool
    ) -> None:
        self.model, self.generation, self.name, self.chat, self.began = model, generation, name, chat, began
        self.logprobs, self.traced = logprobs, traced
        self._choice = Choice()
        self._rounds: list[dict[str, Any]] = []

    async def whole(self) -> Line:
        """The body of a response that is not streamed."""
        made: Line = {}
        logprobs: list[dict[str, Any]] = []
        async with aclosing(self._lines()) as batches:
            async for batch in batches:
                for line in batch:
                    logprobs.extend(line.get("logprobs", ()))
                    made = line
        made.update(said(self.chat, self._choice.content, self._choice.reasoning, self._calls()))
        if self.logprobs:
            made["logprobs"] = logprobs
        return made

    async def encoded(self) -> AsyncGenerator[bytes, None]:
        """Encoded lines, as many at once as are available."""
        async with aclosing(self._lines()) as batches:
            async for batch in batches:
                yield b"".join([encoded(line) for line in batch])

    @staticmethod
    def failed(error: ApiError) -> bytes:
        """The last line of a stream that failed."""
        return encoded(ollama_error(error))

    def beat(self) -> bytes:
        """An empty part, for a stream that has been silent for a while."""
        return encoded(self._line(said(self.chat, "", "", []), done=False))

    async def _lines(self) -> AsyncGenerator[list[Line], None]:
        async with aclosing(self.generation.batches()) as batches:
            async for batch in batches:
                made = [line for _, chunk in batch for line in self._chunk(chunk)]
                if made:
                    yield made

    def _line(self, part: Line, *, done: bool) -> Line:
        return {"model": self.name, "created_at": now(), **part, "done": done}

    def _chunk(self, chunk: Chunk) -> Iterator[Line]:
        if self.traced:
            self._rounds.append(trace(0, chunk))
        delta = self._choice.take(chunk)
        content, thinking = delta.get("content", ""), delta.get("reasoning_content", "")
        last = chunk.finish_reason is not None
        calls = self._calls() if last else []
        logprobs = chat_logprobs(self.model, chunk.tokens) if self.logprobs else []
        if content or thinking or calls or logprobs:
            more = {"logprobs": logprobs} if self.logprobs else {}
            yield self._line({**said(self.chat, content, thinking, calls), **more}, done=False)
        if last:
            yield self._end(chunk)

    def _calls(self) -> list[dict[str, Any]]:
        """The calls that are whole: arguments are objects here, and nobody may run what the length has cut off."""
        made: list[dict[str, Any]] = []
        for call in self._choice.calls:
            function = call["function"]
            try:
                arguments = json.loads(function["arguments"] or "{}")
            except ValueError:
                continue
            made.append(
                {
                    "id": call["id"],
                    "function": {"index": len(made), "name": function["name"], "arguments": arguments},
                }
            )
        return made

    def _end(self, chunk: Chunk) -> Line:
        reason = self._choice.finish_reason
        assert reason is not None
        self.generation.ended(0, reason)
        timings = self.generation.timings()
        made = self._line(said(self.chat, "", "", []), done=True)
        made.update(
            done_reason=chunk.finish_reason,
            total_duration=int((time.perf_counter() - self.began) * 1e9),
            load_duration=0,
            prompt_eval_count=timings["prompt_n"],
            prompt_eval_duration=int(timings["prompt_ms"] * 1e6),
            eval_count=timings["predicted_n"],
            eval_duration=max(1, int(timings["predicted_ms"] * 1e6)),  # clients divide by it
        )
        if self.traced:
            made["geminate"] = {"seed": self.generation.seed, "rounds": self._rounds}
        return made
