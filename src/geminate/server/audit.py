"""The server's audit log: one record for every request of a route that generates, made where all of them end."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geminate.audit.fingerprints import Fingerprints, fingerprints
from geminate.audit.log import AuditLog, now
from geminate.audit.options import AuditOptions
from geminate.audit.runs import Run
from geminate.llm import LLM
from geminate.server.http.errors import ApiError
from geminate.server.http.logs import MAX_PATH, RequestContext, context_of, log
from geminate.server.metrics import PREFIX
from geminate.server.settings import Settings

ROUTES = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate",
})  # fmt: skip
"""What generates. A request that is refused for its key is not recorded: strangers could fill the disk."""


class ServerAudit:
    """An audit log with what a server adds to it.

    Args:
        options: with a file.

    Attributes:
        inside: requests that have no record yet.

    Raises:
        AuditLogError: see `AuditLog`.
    """

    def __init__(self, options: AuditOptions) -> None:
        assert options.audit_log is not None
        self.options = options
        self.log = AuditLog(options.audit_log, options, say=lambda message: log("warning", message))
        self.with_ids = options.audit_content != "hashes"
        self.with_body = options.audit_content == "requests"
        self.inside = 0
        self._known: dict[LLM, Fingerprints] = {}
        self._own: dict[str, Fingerprints] = {}

    def know(self, llm: LLM) -> None:
        """Make a model's fingerprints, which takes a while for a large vocabulary; from any thread, before `begin`."""
        self._known[llm] = fingerprints(llm)

    def begin(self, name: str, llm: LLM, settings: Settings, *, by: str) -> None:
        """Record the requests of a model from now on.

        Args:
            name: its name in the API. settings: what it was loaded with. by: the program.
        """
        if llm not in self._known:
            self.know(llm)
        own = self._own[name] = self._known[llm]
        facts = own.start(settings.model, settings.weights, name=name, holds=self.options.audit_content, by=by)
        if self.log.started:
            self.log.put(lambda: {**facts, "type": "start", "why": "model", "time": now()})
            return
        self.log.start(facts)
        log("info", "audit log", path=str(self.log.path), content=self.options.audit_content, **self._head())

    def _head(self) -> dict[str, Any]:
        head = self.log.head
        return {} if head is None else {"seq": head[0], "head": head[1]}

    @property
    def refusal(self) -> str | None:
        """Why no request may be accepted now; None if they may."""
        if self.options.audit_failure != "refuse":
            return None
        if self.log.failure is not None:
            return self.log.failure
        return "the disk is too slow" if self.log.full else None

    def close(self) -> None:
        """Write what is queued, and end the log."""
        if not self.log.started:
            self.log.close()
            return
        self.log.close(unfinished=self.inside)
        log("info", "audit log closed", path=str(self.log.path), written=self.log.lines, **self._head())

    def add(self, entry: Entry, fields: Mapping[str, Any]) -> None:
        """Add the record of a request that has ended."""
        if not self.log.started:
            return
        runs = entry.context.runs or []
        name = runs[0].model if runs else None
        own = None if name is None else self._own[name]
        error = fields.get("error")
        status = fields.get("status") or entry.status or 499
        seconds = round(time.perf_counter() - entry.context.began, 4)

        def record() -> dict[str, Any]:
            made = {
                "type": "request",
                "time": now(entry.arrived),
                "id": entry.context.id,
                "client": entry.context.client,
                "key": entry.context.key_name,
                "route": entry.route,
                "status": status,
                "seconds": seconds,
                "request": entry.body_sha256,
                "model": name,
                "weights": None if own is None else own.weights,
                "program": None if own is None else own.program,
                "runs": [run.record(with_ids=self.with_ids) for run in runs],
            }
            if error is not None:
                made["error"] = str(error)
            if self.with_body:
                made["body"] = bytes(entry.body).decode("utf-8", "replace")
            return made

        self.log.put(record, sum(run.nbytes for run in runs) * (2 if self.with_ids else 1) + len(entry.body))


class Entry:
    """A request while it is served: when it came, its body and its status."""

    def __init__(self, context: RequestContext, route: str, *, keep_body: bool) -> None:
        self.context, self.route, self.arrived = context, route, time.time()
        self.status = 0
        self.body = bytearray()
        self._keep, self._whole, self._hash = keep_body, False, hashlib.sha256()

    def received(self, message: Message) -> None:
        """A message from the client."""
        if message["type"] == "http.request" and not self._whole:
            part: bytes = message.get("body", b"")
            self._hash.update(part)
            if self._keep:
                self.body += part
            self._whole = not message.get("more_body", False)

    @property
    def body_sha256(self) -> str | None:
        """SHA-256 of the body; None of one that did not come whole."""
        return self._hash.hexdigest() if self._whole else None


class AuditMiddleware:
    """Records every request of `ROUTES` once it has ended, however that was.

    Args:
        audit: the log.
    """

    def __init__(self, app: ASGIApp, audit: ServerAudit) -> None:
        self.app, self.audit = app, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in ROUTES:
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        context.runs = list[Run]()
        entry = Entry(context, scope["path"][:MAX_PATH], keep_body=self.audit.with_body)

        async def received() -> Message:
            message = await receive()
            entry.received(message)
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            await send(message)

        fields: dict[str, Any] = context.fields
        self.audit.inside += 1
        try:
            await self.app(scope, received, sent)
        except ApiError as error:
            fields = {**fields, "status": error.status, "error": error.code or error.type}
            raise
        except Exception as error:
            fields = {**fields, "status": 500, "error": type(error).__name__}
            raise
        finally:
            self.audit.inside -= 1
            self.audit.add(entry, fields)


class _Figures(Collector):
    """Values read from the log when the metrics are scraped."""

    def __init__(self, log: AuditLog) -> None:
        self.log = log

    def collect(self) -> Iterator[Metric]:
        lines, lost = "Lines written to the audit log.", "Records of the audit log that were lost."
        yield CounterMetricFamily(PREFIX + "audit_log_lines", lines, value=self.log.lines)
        yield CounterMetricFamily(PREFIX + "audit_log_lost", lost, value=self.log.lost)
        failing = "1 while the audit log cannot be written."
        yield GaugeMetricFamily(PREFIX + "audit_log_failing", failing, value=int(self.log.failure is not None))


def open_audit(settings: Settings, registry: CollectorRegistry) -> ServerAudit | None:
    """The audit log of these settings; None without a file.

    Args:
        registry: of metrics, which show its lines, losses and failures.

    Raises:
        AuditLogError: see `AuditLog`.
    """
    if settings.audit_log is None:
        return None
    names = [item.name for item in dataclasses.fields(AuditOptions)]
    audit = ServerAudit(AuditOptions(**{name: getattr(settings, name) for name in names}))
    registry.register(_Figures(audit.log))
    return audit
