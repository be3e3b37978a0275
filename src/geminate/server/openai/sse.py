"""Server-sent events: all available chunks in one write, and an immediate stop when the client disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from geminate.server.chunks import Chunk
from geminate.server.http.errors import ApiError, internal
from geminate.server.http.heap import request_trim
from geminate.server.http.logs import RequestContext, log
from geminate.server.http.parsing import ClientGone
from geminate.server.openai.generation import Generation, until_gone

DONE = b"data: [DONE]\n\n"
COMMENT = b":\n\n"
_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def event(data: Any) -> bytes:
    """An event without a name: ``data: JSON``."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n\n"


def named_event(data: dict[str, Any]) -> bytes:
    """An event named after the data's ``type``."""
    return f"event: {data['type']}\n".encode("ascii") + event(data)


async def chunks(
    generation: Generation, chunk: Callable[[int, Chunk], bytes], last: Callable[[], dict[str, Any]] | None
) -> AsyncGenerator[bytes, None]:
    """Encoded chunks of all choices, as many at once as are available; then the ``last`` chunk, if any, and [DONE]."""
    async with aclosing(generation.batches()) as batches:
        async for batch in batches:
            yield b"".join([chunk(choice, part) for choice, part in batch])
    yield (b"" if last is None else event(last())) + DONE


class EventStream(Response):
    """A streamed response.

    Args:
        events: encoded events; closed when the stream ends, for whatever reason.
        cancel: called at the end too, because closing a generator that never started runs none of its cleanup.
        on_error: makes the last event of a stream that fails after its headers were sent.
        media_type: of the stream. beat: makes what is sent when it has been silent for a while.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        context: RequestContext,
        cancel: Callable[[], None],
        on_error: Callable[[ApiError], bytes] = lambda error: event(error.body()) + DONE,
        media_type: str = "text/event-stream; charset=utf-8",
        beat: Callable[[], bytes] = lambda: COMMENT,
    ) -> None:
        super().__init__(media_type=media_type)
        self.events, self.context, self.cancel, self.on_error = events, context, cancel, on_error
        self.beat = beat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send(send), self.cancel)
        except ClientGone:
            self.context.fields["status"] = 499
            request_trim()  # what was kept for a client that did not read

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", (self.media_type or "").encode("ascii")), *_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        silence = _Silence(send, self.context.keepalive_s, self.beat)
        try:
            async with aclosing(self.events) as events, silence:
                async for data in events:
                    silence.broken()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    silence.begins()
        except ApiError as error:
            self.context.fields.update(error=error.code or error.type, status=error.status)
            await send({"type": "http.response.body", "body": self.on_error(error), "more_body": True})
        except Exception as error:
            log("error", "unexpected exception in a stream", exc_info=error, request_id=self.context.id)
            self.context.fields["status"] = 500
            data = self.on_error(internal(self.context.id))
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Silence:
    """Sends a beat whenever nothing else was sent for ``seconds``: proxies close a stream that is silent."""

    def __init__(self, send: Send, seconds: float, beat: Callable[[], bytes]) -> None:
        self._send, self._seconds, self._made = send, seconds, beat
        self._since: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self.begins()
        if self._seconds:
            self._task = asyncio.create_task(self._beat())

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def begins(self) -> None:
        """Everything there was is sent."""
        self._since = asyncio.get_running_loop().time()

    def broken(self) -> None:
        """Something is being sent; a client that does not read it needs no comments."""
        self._since = None

    async def _beat(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            since = self._since
            left = self._seconds if since is None else since + self._seconds - now()
            if left > 0:
                await asyncio.sleep(left)
                continue
            await self._send({"type": "http.response.body", "body": self._made(), "more_body": True})
            self.begins()
