"""Chunks as the events of ``/v1/messages``; a message that is not streamed is made of the same events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from geminate.server.chunks import Chunk
from geminate.server.http.errors import ApiError, anthropic_error
from geminate.server.openai.generation import Generation
from geminate.server.openai.sse import named_event
from geminate.server.openai.tokens import trace
from geminate.server.state import Model
from geminate.text.reply import ReplyDelta

Event = dict[str, Any]
SIGNATURE = "unsigned"
"""Clients drop thinking blocks without a signature from the history; nothing here signs or checks one."""
_PING = {"type": "ping"}
_KINDS = {"content": "text", "reasoning": "thinking", "tool_call": "tool_use"}
_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking"),
           "tool_use": ("input_json_delta", "partial_json")}  # fmt: skip


class _Block:
    """A content block that is being generated."""

    def __init__(self, index: int, delta: ReplyDelta) -> None:
        self.index, self.kind, self.call = index, _KINDS[delta.kind], delta.index
        self.id, self.name = delta.call_id, delta.name
        self.parts: list[str] = []

    def holds(self, delta: ReplyDelta) -> bool:
        """Whether a delta belongs to this block."""
        return self.kind == _KINDS[delta.kind] and (self.kind != "tool_use" or self.call == delta.index)

    def begun(self) -> Event:
        """The block as it is when it starts."""
        if self.kind == "tool_use":
            return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}
        if self.kind == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "text", "text": ""}

    def whole(self) -> Event | None:
        """The block at its end; None for a call that the length has cut off, so that nobody runs it."""
        text = "".join(self.parts)
        if self.kind == "tool_use":
            try:
                return {**self.begun(), "input": json.loads(text or "{}")}
            except ValueError:
                return None
        if self.kind == "thinking":
            return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
        return {"type": "text", "text": text}


class MessageEvents:
    """Turns a generation's chunks into events.

    Args:
        limit: the request's ``max_tokens``. omitted: leave out the text of thinking blocks.
        traced: add ``geminate`` to the message, or to the ``message_delta`` event.
    """

    def __init__(self, model: Model, generation: Generation, *, limit: int, omitted: bool, traced: bool) -> None:
        self.model, self.generation, self.limit = model, generation, limit
        self.omitted, self.traced = omitted, traced
        self._content: list[Event] = []
        self._blocks = 0
        self._block: _Block | None = None
        self._called = False
        self._rounds: list[Event] = []
        self._message: Event = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model.id,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    async def whole(self) -> Event:
        """The body of a response that is not streamed."""
        made = self._message
        async with aclosing(self._events()) as batches:
            async for batch in batches:
                for event in batch:
                    if event["type"] == "message_delta":
                        more: Event = {name: event[name] for name in ("usage", "timings", "geminate") if name in event}
                        made = {**made, "content": self._content, **event["delta"], **more}
        return made

    async def encoded(self) -> AsyncGenerator[bytes, None]:
        """Encoded events, as many at once as are available."""
        async with aclosing(self._events()) as batches:
            async for batch in batches:
                yield b"".join([named_event(event) for event in batch])

    @staticmethod
    def failed(error: ApiError) -> bytes:
        """The last event of a stream that failed."""
        return named_event(anthropic_error(error))

    @staticmethod
    def beat() -> bytes:
        """What is sent on a stream that has been silent for a while."""
        return named_event(_PING)

    def _usage(self) -> Event:
        """Token counts; Anthropic counts what was cached apart. It is known at the end only."""
        counted = self.generation.usage()
        cached = counted["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": counted["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": counted["completion_tokens"],
        }

    async def _events(self) -> AsyncGenerator[list[Event], None]:
        yield [{"type": "message_start", "message": self._message}, _PING]
        async with aclosing(self.generation.batches()) as batches:
            async for batch in batches:
                made = [event for _, chunk in batch for event in self._chunk(chunk)]
                if made:
                    yield made

    def _chunk(self, chunk: Chunk) -> Iterator[Event]:
        if self.traced:
            self._rounds.append(trace(0, chunk))
        for delta in chunk.deltas:
            if delta.text or delta.name is not None:
                yield from self._delta(delta)
        if chunk.finish_reason is not None:
            yield from self._end(chunk)

    def _delta(self, delta: ReplyDelta) -> Iterator[Event]:
        block = self._block
        if block is None or not block.holds(delta):
            yield from self._close()
            block = self._block = _Block(self._blocks, delta)
            self._blocks += 1
            self._called |= block.kind == "tool_use"
            yield {"type": "content_block_start", "index": block.index, "content_block": block.begun()}
        if delta.text and not (self.omitted and block.kind == "thinking"):
            block.parts.append(delta.text)
            kind, field = _DELTAS[block.kind]
            yield {"type": "content_block_delta", "index": block.index, "delta": {"type": kind, field: delta.text}}

    def _close(self) -> Iterator[Event]:
        block, self._block = self._block, None
        if block is None:
            return
        if block.kind == "thinking":
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            yield {"type": "content_block_delta", "index": block.index, "delta": delta}
        whole = block.whole()
        if whole is not None:
            self._content.append(whole)
        yield {"type": "content_block_stop", "index": block.index}

    def _end(self, chunk: Chunk) -> Iterator[Event]:
        yield from self._close()
        reason, called = chunk.finish_reason, self._called and chunk.finish_reason == "stop"
        assert reason is not None
        self.generation.ended(0, "tool_calls" if called else reason)
        if reason == "length":
            full = self.generation.generated < self.limit
            stopped = "model_context_window_exceeded" if full else "max_tokens"
        else:
            stopped = "tool_use" if called else "end_turn" if chunk.stop is None else "stop_sequence"
        delta = {"stop_reason": stopped, "stop_sequence": chunk.stop if stopped == "stop_sequence" else None}
        last: Event = {"type": "message_delta", "delta": delta, "usage": self._usage()}
        last["timings"] = self.generation.timings()
        if self.traced:
            last["geminate"] = {"seed": self.generation.seed, "rounds": self._rounds}
        yield last
        yield {"type": "message_stop"}
