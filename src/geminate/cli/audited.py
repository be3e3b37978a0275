"""A generation of the command line, which an audit log may record."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from geminate.audit.fingerprints import Fingerprints, fingerprints
from geminate.audit.lines import canonical, digest
from geminate.audit.log import AuditLog, now
from geminate.audit.options import AuditOptions
from geminate.audit.runs import Run
from geminate.calls import OnPrompt
from geminate.cli.console import say
from geminate.engine.messages import EngineRequest
from geminate.errors import AuditLogError
from geminate.llm import LLM
from geminate.loading.options import LoadOptions
from geminate.output import Completion, Delta


@contextmanager
def opened(options: AuditOptions) -> Iterator[AuditLog | None]:
    """The audit log of these options, closed at the end; None without a file.

    Raises:
        AuditLogError: it cannot be opened, or its end could not be written.
    """
    if options.audit_log is None:
        yield None
        return
    said: list[str] = []
    log = AuditLog(options.audit_log, options, say=said.append)
    try:
        yield log
    finally:
        done = log.close()
    if not done:
        raise AuditLogError(said[0])
    for message in said:
        say(message)


def answered(
    llm: LLM, request: EngineRequest, on_prompt: OnPrompt, log: AuditLog | None, loaded: LoadOptions, asked: Any
) -> Generator[Delta, None, None]:
    """The deltas of a request; it has a line in the log once it has ended, whole or not.

    Args:
        loaded: how the model was loaded. asked: what the user gave, as JSON.
    """
    run, completion, began = Run(request), Completion(request, llm.tokenizer), now()
    try:
        llm.service.submit(request)
        for event in llm.service.events(request.request_id):
            run.take(event)
            if event.progress is None:
                yield completion.push(event)
            else:
                on_prompt(event.progress.done, event.progress.total)
    finally:
        if log is not None:
            own = fingerprints(llm)
            holds = log.options.audit_content
            log.start(own.start(loaded.model, loaded.weights, holds=holds, by="geminate generate"))
            record = _record(own, run, began, asked, holds)
            log.put(lambda: record)


def _record(own: Fingerprints, run: Run, began: str, asked: Any, holds: str) -> dict[str, Any]:
    body = canonical(asked)
    record = {
        "type": "request",
        "time": began,
        "id": run.request.request_id,
        "client": "",
        "route": "geminate generate",
        "request": digest(body),
        "weights": own.weights,
        "program": own.program,
        "runs": [run.record(with_ids=holds != "hashes")],
    }
    return {**record, "body": body.decode("ascii")} if holds == "requests" else record
