"""Chunks as the events of ``/v1/responses``, in OpenAI's order; the last event has the complete response."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Protocol

from geminate.server.chunks import Chunk
from geminate.server.http.errors import ApiError
from geminate.server.openai.generation import Generation
from geminate.server.openai.sse import named_event
from geminate.server.openai.tokens import chat_logprobs, trace
from geminate.server.state import Model
from geminate.text.reply import ReplyDelta

Event = dict[str, Any]


class ResponseFrame(Protocol):
    """Builds the response object."""

    def object(self, status: str, output: list[Event], *, error: ApiError | None = None) -> Event:
        """See `geminate.server.openai.responses.Frame`."""
        ...


class _Item:
    """An output item that is being generated: a message, a reasoning item or a function call."""

    def __init__(self, index: int, delta: ReplyDelta) -> None:
        self.index, self.kind, self.call = index, delta.kind, delta.index
        self.parts: list[str] = []
        self.logprobs: list[Any] = []
        prefix = {"content": "msg", "reasoning": "rs", "tool_call": "fc"}[delta.kind]
        self.id = f"{prefix}_{secrets.token_hex(16)}"
        self.call_id, self.name = delta.call_id, delta.name

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def place(self) -> Event:
        made: Event = {"item_id": self.id, "output_index": self.index}
        return made if self.kind == "tool_call" else {**made, "content_index": 0}

    def part(self) -> Event:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}

    def whole(self, status: str) -> Event:
        if self.kind == "tool_call":
            return {
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": self.call_id,
                "name": self.name,
                "arguments": self.text,
            }
        content = [] if status == "in_progress" else [self.part()]
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class ResponseEvents:
    """Turns a generation's chunks into events.

    Args:
        logprobs: add log-probabilities to the output text.
        traced: add ``geminate`` to the first delta event of each round.
    """

    def __init__(
        self, model: Model, generation: Generation, frame: ResponseFrame, *, logprobs: bool, traced: bool
    ) -> None:
        self.model, self.generation, self.frame = model, generation, frame
        self.logprobs, self.traced = logprobs, traced
        self.rounds: list[Event] = []
        self._output: list[Event] = []
        self._item: _Item | None = None
        self._logprobs: list[Any] = []
        self._sequence = 0

    async def whole(self) -> Event:
        """The body of a response that is not streamed."""
        last: Event = {}
        async with aclosing(self._events()) as batches:
            async for batch in batches:
                last = batch[-1]
        made: Event = last["response"]
        return made

    async def encoded(self) -> AsyncGenerator[bytes, None]:
        """Encoded events, as many at once as are available."""
        async with aclosing(self._events()) as batches:
            async for batch in batches:
                yield b"".join([named_event(event) for event in batch])

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that failed."""
        return named_event(self._event("response.failed", response=self.frame.object("failed", [], error=error)))

    def _event(self, type: str, **fields: Any) -> Event:
        made = {"type": type, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return made

    async def _events(self) -> AsyncGenerator[list[Event], None]:
        yield [
            self._event("response.created", response=self.frame.object("in_progress", [])),
            self._event("response.in_progress", response=self.frame.object("in_progress", [])),
        ]
        async with aclosing(self.generation.batches()) as batches:
            async for batch in batches:
                made: list[Event] = []
                for _, chunk in batch:
                    made.extend(self._chunk(chunk))
                if made:
                    yield made

    def _chunk(self, chunk: Chunk) -> Iterator[Event]:
        if self.logprobs:
            self._logprobs.extend(chat_logprobs(self.model, chunk.tokens))
        tracing = trace(0, chunk) if self.traced else None
        if tracing is not None:
            self.rounds.append(tracing)
        for delta in chunk.deltas:
            if delta.text or delta.name is not None:
                for event in self._delta(delta):
                    if tracing is not None and event["type"].endswith(".delta"):
                        event["geminate"], tracing = tracing, None
                    yield event
        if chunk.finish_reason is not None:
            yield from self._end(chunk.finish_reason)

    def _delta(self, delta: ReplyDelta) -> Iterator[Event]:
        item = self._item
        if item is None or item.kind != delta.kind or (delta.kind == "tool_call" and item.call != delta.index):
            yield from self._close("completed")
            item = self._item = _Item(len(self._output), delta)
            yield self._event("response.output_item.added", output_index=item.index, item=item.whole("in_progress"))
            if item.kind != "tool_call":
                yield self._event("response.content_part.added", **item.place, part=item.part())
        if not delta.text:
            return
        item.parts.append(delta.text)
        if delta.kind == "content":
            fresh, self._logprobs = self._logprobs, []
            item.logprobs.extend(fresh)
            yield self._event("response.output_text.delta", **item.place, delta=delta.text, logprobs=fresh)
        elif delta.kind == "reasoning":
            self._logprobs.clear()
            yield self._event("response.reasoning_text.delta", **item.place, delta=delta.text)
        else:
            self._logprobs.clear()
            yield self._event("response.function_call_arguments.delta", **item.place, delta=delta.text)

    def _close(self, status: str) -> Iterator[Event]:
        item = self._item
        if item is None:
            return
        self._item = None
        if item.kind == "content":
            yield self._event("response.output_text.done", **item.place, text=item.text, logprobs=list(item.logprobs))
        elif item.kind == "reasoning":
            yield self._event("response.reasoning_text.done", **item.place, text=item.text)
        else:
            yield self._event(
                "response.function_call_arguments.done", **item.place, name=item.name, arguments=item.text
            )
        if item.kind != "tool_call":
            yield self._event("response.content_part.done", **item.place, part=item.part())
        whole = item.whole(status)
        self._output.append(whole)
        yield self._event("response.output_item.done", output_index=item.index, item=whole)

    def _end(self, reason: str) -> Iterator[Event]:
        status = "completed" if reason == "stop" else "incomplete"
        yield from self._close(status)
        if not self._output:  # an empty completion still has a message
            item = self._item = _Item(0, ReplyDelta(kind="content", text=""))
            yield self._event("response.output_item.added", output_index=0, item=item.whole("in_progress"))
            yield self._event("response.content_part.added", **item.place, part=item.part())
            yield from self._close(status)
        called = any(item["type"] == "function_call" for item in self._output)
        self.generation.ended(0, "tool_calls" if called and reason == "stop" else reason)
        made = self.frame.object(status, self._output)
        if self.traced:
            made["geminate"] = {"seed": self.generation.seed, "rounds": self.rounds}
        yield self._event(f"response.{status}", response=made)
