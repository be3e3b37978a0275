"""Audit logs for tests: written by the real writer, damaged line by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geminate.audit.log import AuditLog
from geminate.audit.options import AuditOptions
from geminate.audit.verify import Report, verify


def open_log(path: Path, say: Callable[[str], None] = lambda text: None, **options: Any) -> AuditLog:
    """A log whose writer has begun."""
    log = AuditLog(path, AuditOptions(audit_log=str(path), **options), say=say)
    log.start({"facts": {"version": "test"}})
    return log


def write_log(path: Path, requests: int, **options: Any) -> list[bytes]:
    """A closed log with so many requests; its lines, with their line ends."""
    log = open_log(path, **options)
    for number in range(requests):
        log.put(lambda number=number: {"type": "request", "id": f"r{number}", "runs": [], "n": number * 1.5})
    assert log.close()
    return lines_of(path)


def lines_of(path: Path) -> list[bytes]:
    """The lines of one file."""
    return path.read_bytes().splitlines(keepends=True)


def records_of(path: Path) -> list[dict[str, Any]]:
    """The records of one file."""
    return [json.loads(line) for line in lines_of(path)]


def verified(path: Path, lines: list[bytes], **more: Any) -> Report:
    """What is found in a log of one file with these lines."""
    path.write_bytes(b"".join(lines))
    return verify(path, **more)


def kinds(report: Report) -> list[tuple[str, int]]:
    """(what, line number in its file) of every problem."""
    return [(p.what, 0 if p.place is None else p.place.line) for p in report.problems]
