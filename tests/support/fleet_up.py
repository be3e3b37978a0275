"""A real fleet on Ray in processes of its own, on a free port, with its log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 120.0
_JSON = re.compile(r"\{.*\}")


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FleetUp:
    """A running ``geminate fleet up``; `log` grows while it runs, with the lines of its replicas."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from geminate.cli.app import app; app()",
                "fleet",
                "up",
                "--port",
                str(self.port),
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            with self._news:
                self.raw.append(text)
                found = _JSON.search(text)
                if found is not None:
                    with contextlib.suppress(ValueError):
                        self.log.append(json.loads(found[0]))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_log(self, message: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """Lines of the log with this message and these fields, when there are so many."""

        def found() -> list[dict[str, Any]]:
            return [
                line
                for line in self.log
                if line.get("message") == message and all(line.get(name) == value for name, value in fields.items())
            ]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or self.process.poll() is not None, PATIENCE_S)
            lines = found()
        assert len(lines) >= count, f"{message!r} did not come; log: {''.join(self.raw)[-8000:]}"
        return lines

    def ready(self) -> FleetUp:
        """When requests are answered."""
        self.wait_log("fleet ready")
        self.until(lambda: httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200)
        return self

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Wait for something."""
        end = time.monotonic() + seconds
        while not self._holds(holds):
            assert time.monotonic() < end and self.process.poll() is None, "".join(self.raw)[-8000:]
            time.sleep(0.1)

    @staticmethod
    def _holds(holds: Callable[[], bool]) -> bool:
        try:
            return holds()
        except httpx.HTTPError:
            return False

    def pids(self) -> list[int]:
        """Process ids of the replicas that have started, the oldest first."""
        return [line["pid"] for line in self.log if line.get("message") == "replica ready"]

    def living(self) -> list[int]:
        """Those that are alive."""
        return [pid for pid in self.pids() if Path(f"/proc/{pid}").exists()]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all samples with these labels."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines():
            if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def ended(self) -> int:
        """The exit code, once it has ended by itself and all of its log is read."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> FleetUp:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
