"""A live server with the embedded pair, and what must hold of it after every input."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from fuzz.target import GIGABYTE, SECONDS
from support.serving import Served

HEALTH_EVERY = 20
LOG_SECONDS = 0.003  # so that a line of the log is counted for the input that caused it
ALLOWED = (501, 503, 504)  # not a fault: not implemented, busy, out of time


class Watched:
    """Starts a server, looks at its health and its log, and starts another when it is broken."""

    def __init__(self, *flags: str) -> None:
        self._flags = ("--request-seconds", str(SECONDS), *flags)
        self._count = 0
        self._start()

    def _start(self) -> None:
        self.served = Served(*self._flags).ready()
        self.served.process.poll()
        self._memory = self._resident()
        self._read = len(self.served.raw)
        self.client = self.served.client()
        self.client.timeout = httpx.Timeout(SECONDS * 3)

    def _resident(self) -> int:
        lines = Path(f"/proc/{self.served.process.pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)

    def _faults(self) -> Iterator[str]:
        """Lines of the log that are no JSON, or tell of an exception."""
        lines, self._read = self.served.raw[self._read :], len(self.served.raw)
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                yield f"log: {line.strip()[:300]}"
                continue
            if found.get("level", "").upper() in ("ERROR", "CRITICAL") or "traceback" in found:
                yield f"log: {found.get('message')}: {str(found.get('traceback', '')).strip()[-400:]}"

    def checked(self, wrong: str | None = None) -> str | None:
        """``wrong``, or what is wrong with the server now; a broken server is replaced."""
        self._count += 1
        time.sleep(LOG_SECONDS if wrong is None else 100 * LOG_SECONDS)
        if self.served.process.poll() is not None:
            wrong = f"the server ended with {self.served.process.returncode}; {wrong}: {''.join(self.served.raw[-3:])}"
            self._start()
            return wrong
        wrong = next(self._faults(), None) or wrong  # the log knows the cause
        if wrong is None and self._count % HEALTH_EVERY == 0:
            wrong = self._health()
        return wrong

    def _health(self) -> str | None:
        started = time.monotonic()
        try:
            answer = self.client.get("/health/ready")
        except httpx.HTTPError as error:
            return f"/health/ready: {type(error).__name__}"
        if answer.status_code != 200:
            return f"/health/ready: {answer.status_code}"
        if (took := time.monotonic() - started) > SECONDS:
            return f"/health/ready after {took:.0f} s"
        if (more := self._resident() - self._memory) > GIGABYTE:
            return f"{more / 1e9:.1f} GB more than at the start"
        return None

    def close(self) -> str | None:
        """Stop the server as SIGTERM does; what went wrong."""
        wrong = self._health() or next(self._faults(), None)
        self.client.close()
        code = self.served.stop()
        return wrong or (f"exit code {code} after SIGTERM" if code else None)
