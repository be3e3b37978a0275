"""Logging: one JSON object per line on stderr, and the middleware that assigns request ids and logs each request."""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geminate.audit.runs import Run
from geminate.server.http.costs import Costs
from geminate.server.http.errors import ANTHROPIC, ApiError, internal
from geminate.server.http.text_log import TextFormatter
from geminate.server.http.tolerance import header
from geminate.server.settings import Settings, is_loopback

_LOGGER = logging.getLogger("geminate.server")
_VALID_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MAX_PATH = 200  # characters of a path that are logged
_QUIET = ("/health", "/health/live", "/health/ready", "/metrics", "/ui/work")


class OnePerSecond(logging.Filter):
    """Passes one line a second of each kind; the next one, or `flush`, says how many were left out.

    A record's kind is its attribute ``kind``; uvicorn's warnings, which strangers can cause, are of the kind of their
    text. Records without a kind all pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = getattr(record, "kind", None)
        if record.name.startswith("uvicorn") and record.levelno == logging.WARNING:
            kind = str(record.msg)
        if kind is None:
            return True
        now = time.monotonic()
        since, left_out = self._seen.get(kind, (-math.inf, 0))
        if now - since < 1:
            self._seen[kind] = (since, left_out + 1)
            return False
        self._seen[kind] = (now, 0)
        if left_out:
            record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
        return True

    def flush(self) -> None:
        """Report what was left out more than a second ago."""
        now = time.monotonic()
        for kind, (since, left_out) in list(self._seen.items()):
            if now - since >= 1:
                del self._seen[kind]
                if left_out:
                    log("info", kind, left_out=left_out)


_SPARING = OnePerSecond()


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, message, then its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": " ".join(record.getMessage().split()),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def wants_text(style: str) -> bool:
    """Whether the log is text: asked for, or ``auto`` and stderr is a terminal."""
    return style == "text" or (style == "auto" and sys.stderr.isatty())


def line_around_time(level: str, message: str, style: str = "json") -> tuple[str, str]:
    """A log line as what stands in front of its time and behind it, for whoever cannot call `log`."""
    if wants_text(style):
        return "", f" {level}: {message}\n"
    head, _, tail = json.dumps({"time": "\0", "level": level, "message": message}).partition("\\u0000")
    return head, tail + "\n"


def configure(style: str = "json") -> None:
    """Send log records of the server and of uvicorn to stderr.

    Args:
        style: ``text``, ``json``, or ``auto``: text on a terminal.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if wants_text(style) else JsonFormatter())
    handler.addFilter(_SPARING)
    for name, level in (("geminate.server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def log(
    level: str,
    message: str,
    *,
    exc_info: BaseException | None = None,
    kind: str | None = None,
    lines: Sequence[str] = (),
    **fields: Any,
) -> None:
    """Write one log line.

    Args:
        kind: of lines that strangers can cause; one a second is written. fields: JSON values.
        lines: the fields in words, for a log that is text.
    """
    _LOGGER.log(_LEVELS[level], message, exc_info=exc_info, extra={"fields": fields, "kind": kind, "lines": lines})


def log_left_out() -> None:
    """Report the lines that were left out because others of their kind had just been written."""
    _SPARING.flush()


class RequestContext:
    """A request's id, whose it is, and its log fields, in ``scope["state"]["context"]``; handlers add to ``fields``.

    Attributes:
        client: a digest of the API key where keys are needed, else the address of another machine; "" if nobody knows.
        key_name: the name of the API key, if it has one.
        strict: whether fields without an effect are refused. ignored: the names of those that were dropped instead.
        keepalive_s: seconds after which a silent stream gets a comment line; 0: never.
        costs: what each client has cost.
        runs: its engine requests, for the audit log; None: there is none.
    """

    __slots__ = ("began", "client", "costs", "fields", "id", "ignored", "keepalive_s", "key_name", "runs", "strict")

    def __init__(
        self, id: str, client: str, *, strict: bool = False, keepalive_s: float = 0.0, costs: Costs | None = None
    ) -> None:
        self.id, self.client = id, client
        self.costs = costs or Costs()
        self.strict, self.keepalive_s = strict, keepalive_s
        self.ignored: list[str] = []
        self.began = time.perf_counter()
        self.fields: dict[str, Any] = {}
        self.runs: list[Run] | None = None
        self.key_name: str | None = None


def context_of(scope: Scope) -> RequestContext:
    """The context of the request with this scope."""
    context: RequestContext = scope["state"]["context"]
    return context


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _VALID_ID.fullmatch(value):
            return str(value, "ascii")
    return f"req_{secrets.token_hex(12)}"


def _with_headers(
    headers: Iterable[tuple[bytes, bytes]], context: RequestContext, path: str
) -> list[tuple[bytes, bytes]]:
    """A response's headers with its request id, the names of the fields that had no effect, and with what keeps
    browsers from guessing another content type."""
    given = list(headers)
    if context.ignored:
        given.append((b"x-geminate-ignored", header(context.ignored)))
    if path.startswith(ANTHROPIC):
        given.append((b"request-id", context.id.encode()))
    if not any(name.lower() == b"x-content-type-options" for name, _ in given):
        given.append((b"x-content-type-options", b"nosniff"))
    return [*given, (b"x-request-id", context.id.encode())]


class ContextMiddleware:
    """The outermost middleware: request ids, one log line and one count per request, 500 for uncaught exceptions.

    Args:
        on_done: called with (route path, status, seconds) after every request.
    """

    def __init__(self, app: ASGIApp, on_done: Any, settings: Settings) -> None:
        self.app, self.on_done, self.settings = app, on_done, settings
        self._costs = Costs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        peer = scope.get("client")
        context = RequestContext(
            _request_id(scope),
            "" if peer is None or is_loopback(peer[0]) else peer[0],
            strict=self.settings.unknown_fields == "refuse",
            keepalive_s=self.settings.keepalive_seconds,
            costs=self._costs,
        )
        scope.setdefault("state", {})["context"] = context
        status = 0
        complete = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                if 400 <= status < 500:
                    await self._costs.refused(context.client, time.perf_counter() - context.began)
                message["headers"] = _with_headers(message.get("headers", ()), context, scope["path"])
            elif not message.get("more_body"):
                complete = True
            await send(message)

        self._costs.inside += 1
        try:
            try:
                await self.app(scope, receive, send_with_id)
            except ApiError as error:  # from a middleware, outside the framework's handlers
                if status:
                    raise
                await error.response()(scope, receive, send_with_id)
        except Exception as error:
            log("error", "unexpected exception", exc_info=error, request_id=context.id, path=scope["path"][:MAX_PATH])
            if status and not complete:
                raise  # uvicorn closes the connection, so the client sees a truncated response
            if not status:
                await internal(context.id).response()(scope, receive, send_with_id)
        finally:
            self._costs.inside -= 1
            self._finish(scope, context, status)

    def _finish(self, scope: Scope, context: RequestContext, status: int) -> None:
        seconds = time.perf_counter() - context.began
        status = context.fields.pop("status", None) or status or 499
        route = scope.get("route")
        self.on_done(getattr(route, "path", "other"), status, seconds)
        if scope["path"] in _QUIET and status < 400:
            return
        client = scope.get("client")
        if context.ignored:
            context.fields["ignored"] = context.ignored
        log(
            "info",
            "request",
            kind="request refused" if status == 401 else None,
            request_id=context.id,
            method=scope["method"],
            path=scope["path"][:MAX_PATH],
            status=status,
            seconds=round(seconds, 4),
            client=client[0] if client else None,
            **context.fields,
        )
