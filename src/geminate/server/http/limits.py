"""Connection limits: body size, time to receive headers and body, time without reading, number of connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar, cast

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from geminate.server.http.errors import ApiError
from geminate.server.http.logs import log
from geminate.server.settings import Settings

SEND_BUFFER = 128 << 10
MIN_PROGRESS = 1024
"""Bytes a client must read within ``write_seconds``; a byte now and then does not count as reading."""


class BodyLimitMiddleware:
    """413 for a body that is too large; rejected before it is read if Content-Length announces it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.limit:
                await self._too_large().response()(scope, receive, send)
                return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request body exceeds {self.limit} bytes (max_body_bytes)", code="request_too_large")


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol plus the timeouts it lacks; `timed_protocol` configures them.

    One timer runs while a request's headers are incomplete, one while its body is, and one while the client does
    not read. Idle keep-alive connections are handled by uvicorn itself.
    """

    settings: ClassVar[Settings]
    _waits: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast(asyncio.Transport, transport)
        super().connection_made(wire)
        sock = wire.get_extra_info("socket")
        if sock is not None:
            # The kernel would grow its buffer to megabytes for a client that does not read.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        wire.set_write_buffer_limits(high=0)  # anything unsent counts as a full socket
        if len(self.connections) > self.settings.max_connections:
            log("warning", "connection limit reached; connection closed", client=self._client())
            wire.abort()
            return
        self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for(None)
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            return
        self._wait_for(None)

    def _update_timer(self) -> None:
        theirs = self.conn.their_state
        self._wait_for("head" if theirs is h11.IDLE else "body" if theirs is h11.SEND_BODY else None)

    def _wait_for(self, what: str | None) -> None:
        if what == self._waits:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waits = what
        if what is not None:
            seconds = self.settings.head_seconds if what == "head" else self.settings.body_seconds
            self._timer = self.loop.call_later(seconds, self._timed_out, what)

    def _timed_out(self, what: str) -> None:
        log("info", f"request {what} not received in time; connection closed", client=self._client())
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._time_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _time_writing(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.settings.write_seconds, self._check_progress)

    def _check_progress(self) -> None:
        if self._unsent - self.transport.get_write_buffer_size() >= MIN_PROGRESS:
            self._time_writing()
            return
        log("info", "client did not read its response; connection closed", client=self._client())
        self.transport.abort()

    def _client(self) -> str | None:
        return self.client[0] if self.client else None


def timed_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class to pass to uvicorn as ``http``."""
    made: Any = type("TimedProtocol", (TimedProtocol,), {"settings": settings})
    return cast(type[asyncio.Protocol], made)
