"""Limits on connections and requests: time for head and body, time without reading, who has a place, size of a body."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any, ClassVar, cast

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from geminate.server.http.errors import ApiError, bad_request
from geminate.server.http.linger import LingeringTransport
from geminate.server.http.logs import log
from geminate.server.http.places import Places
from geminate.server.settings import Settings
from geminate.system.sockets import has_input

SEND_BUFFER = 128 << 10
MIN_PROGRESS = 1024
"""Bytes a client must read within ``write_seconds``; a byte now and then does not count as reading."""
INVALID = "Invalid HTTP request received."  # uvicorn's words
NO_PLACE = "connection limit reached"
GAVE_WAY = "a connection without an accepted request gave way to a new one"
NOT_READ = "client did not read its response"
_HEAD_END = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")


def two_lengths(scope: Scope) -> bool:
    """Whether a request has both Content-Length and Transfer-Encoding, of which a proxy may believe the other one."""
    return {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}


class BodyLimitMiddleware:
    """413 for a body that is too large, before it is read if Content-Length announces it; 400 for two lengths."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if two_lengths(scope):
            raise bad_request("a request must not have both Content-Length and Transfer-Encoding")
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
    """uvicorn's HTTP/1.1 protocol plus the limits it lacks; `timed_protocol` configures them.

    One timer runs while a request's headers are incomplete, one while its body is, and one while the client does
    not read. Idle keep-alive connections are handled by uvicorn itself. A request that is answered before its body
    was read ends the connection. `Places` decides who has one.
    """

    settings: ClassVar[Settings]
    places: ClassVar[Places]
    accepted = False
    _heard = _asked = False
    _malformed = False
    _waits: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = LingeringTransport(cast(asyncio.Transport, transport), self.loop, self._cut_off)
        self._wire = wire
        super().connection_made(cast(asyncio.Transport, wire))
        self._answer, self.app = cast(ASGIApp, self.app), cast(Any, self._answer_closing)
        self.judged(False)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # The kernel would grow its buffer to megabytes for a client that does not read.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        wire.set_write_buffer_limits(high=0)  # anything unsent counts as a full socket
        if not self.places.enter(self):
            log("warning", f"{NO_PLACE}; connection closed", kind=NO_PLACE, client=self._client())
            wire.abort()
            return
        self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self.places.leave(self)
        self._wire.lost()
        self._wait_for(None)
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._wire.lingering:
            return  # the rest of a request that is answered
        self._heard = True
        super().data_received(data)
        self._update_timer()

    def handle_events(self) -> None:
        """Parse what has come; h11 takes line ends without a carriage return in a head, which proxies may not."""
        if self.conn.their_state is h11.IDLE:
            begun = self.conn.trailing_data[0]
            end = _HEAD_END.search(begun)
            if _BARE_LF.search(begun, 0, end.end() if end else len(begun)):
                self.logger.warning(INVALID)
                self.send_400_response(INVALID)
                return
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed; a request whose body it is in gets no other answer."""
        self._malformed = True
        cycle = cast(RequestResponseCycle | None, self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self._wire.abort()
                return
        try:
            self._send_refusal(bad_request(f"{msg.rstrip('.')}: it is not HTTP/1.1 as RFC 9112 writes it"))
        except h11.LocalProtocolError:  # after a HEAD, whose answer has no body
            self._wire.abort()

    def _send_refusal(self, error: ApiError) -> None:
        """An error in the form of all others, on a connection that ends with it."""
        answer = error.response()
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: the request is answered without the upgrade, and uvicorn's advice is for other programs."""

    async def _answer_closing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; ``Connection: close`` is added to the answer to a request that is not read to its end."""
        self._asked = True
        scope["state"]["judged"] = self.judged
        ambiguous = two_lengths(scope)

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and (ambiguous or self._cut_off()):
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        await self._answer(scope, receive, closing)

    def _cut_off(self) -> bool:
        """Whether the client may be sending something that is not going to be read."""
        return self._malformed or self.conn.their_state is h11.SEND_BODY

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self._wait_for(None)  # uvicorn's own timer runs
        else:
            self._update_timer()

    def judged(self, accepted: bool) -> None:
        """A request was accepted, or refused for its key: strangers have less time, and give way to new connections."""
        self.accepted = accepted
        self.places.judged(self)
        self.timeout_keep_alive = cast(int, self._patience(self.settings.idle_seconds))

    def _patience(self, seconds: float) -> float:
        return seconds if self.accepted else min(seconds, self.settings.keyless_seconds)

    def may_speak(self) -> bool:
        """Whether its first request was not looked at yet, and the client is still there."""
        if self._heard or self._wire.is_closing():
            return self.cycle is not None and not self._asked
        return has_input(self._wire.get_extra_info("socket").fileno())

    def give_way(self) -> None:
        """Close it at once, for another."""
        log("info", f"{GAVE_WAY}; connection closed", kind=GAVE_WAY, client=self._client())
        self._wire.abort()

    def _update_timer(self) -> None:
        theirs = self.conn.their_state
        self._wait_for("head" if theirs is h11.IDLE else "body" if theirs is h11.SEND_BODY else None)

    def _wait_for(self, what: str | None) -> None:
        if self._wire.lingering or self._wire.is_closing():
            what = None
        if what == self._waits:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waits = what
        if what is not None:
            head = self._patience(self.settings.head_seconds)
            self._timer = self.loop.call_later(
                head if what == "head" else self.settings.body_seconds, self._timed_out, what
            )

    def _timed_out(self, what: str) -> None:
        kind = f"request {what} not received in time"
        log("info", f"{kind}; connection closed", kind=kind, client=self._client())
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
        log("info", f"{NOT_READ}; connection closed", kind=NOT_READ, client=self._client())
        self.transport.abort()

    def _client(self) -> str | None:
        return self.client[0] if self.client else None


def timed_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class to pass to uvicorn as ``http``; its connections share the places of one server."""
    made: Any = type("TimedProtocol", (TimedProtocol,), {"settings": settings, "places": Places(settings)})
    return cast(type[asyncio.Protocol], made)
