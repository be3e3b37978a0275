"""A real ``geminate serve`` in a process of its own, on a free port, with its log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

MODEL = "geminate-embedded"
PATIENCE_S = 60.0


class Served:
    """A running server; `log` grows while it runs.

    Args:
        prelude: Python that its process runs first.
    """

    def __init__(
        self, *flags: str, env: dict[str, str] | None = None, key: str | None = None, prelude: str = ""
    ) -> None:
        self.log: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._news = threading.Condition()
        self.key = key
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{prelude}\nfrom geminate.cli.app import app; app()",
                "serve",
                "--port",
                "0",
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port: int = self.wait_log("listening")["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.raw.append(line.decode(errors="replace"))
                with contextlib.suppress(ValueError):
                    self.log.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_log(self, message: str, **fields: Any) -> dict[str, Any]:
        """The first line of the log with this message and these fields, when it comes."""

        def found() -> dict[str, Any] | None:
            for line in self.log:
                if line["message"] == message and all(line.get(name) == value for name, value in fields.items()):
                    return line
            return None

        with self._news:
            if not self._news.wait_for(lambda: found() or not self._reader.is_alive(), PATIENCE_S):
                raise AssertionError(f"{message!r} did not come; log: {''.join(self.raw)}")
            line = found()
        assert line is not None, f"the server ended without {message!r}; log: {''.join(self.raw)}"
        return line

    def ready(self) -> Served:
        """When the model is loaded."""
        self.wait_log("ready")
        return self

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client of this server."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, **options)

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as the exposition writes them."""
        with self.client() as client:
            text = client.get("/metrics").raise_for_status().text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name.replace(f'model_name="{MODEL}"', "").replace("{}", ""): float(value) for name, value in lines}

    def quiet(self) -> None:
        """Return when nothing runs or waits."""
        self.until(lambda m: m["geminate:num_requests_running"] == m["geminate:num_requests_waiting"] == 0)

    def until(self, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """The metrics once something holds of them."""
        end = time.monotonic() + PATIENCE_S
        while True:
            found = self.metrics()
            if holds(found):
                return found
            assert time.monotonic() < end, found
            time.sleep(0.02)

    def wait_end(self) -> None:
        """When the process has ended and all of its log is read."""
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def chat_body(text: str = "Tell me a story.", **fields: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def events(response: httpx.Response) -> Iterator[Any]:
    """The data of a stream's events, without ``[DONE]``."""
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def stream(client: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    """All events of a streamed answer."""
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return list(events(response))
