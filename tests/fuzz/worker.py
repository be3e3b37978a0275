"""Inputs tried in a process of their own, with limits on its time and memory."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO

from fuzz.target import GIGABYTE, SECONDS

RECYCLE = 200  # inputs of one process
PATIENCE = 4  # seconds on the clock for one of processor time: other work may run beside this


class Worker:
    """A process that calls ``function(data)`` of a module under `fuzz` for every input.

    Args:
        function: ``module:name``; it returns None, or what went wrong. GeminateError counts as None.
    """

    def __init__(self, function: str) -> None:
        self._function = function
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._count = 0

    def attempt(self, data: bytes) -> str | None:
        """What went wrong, or None: an exception, a signal, too much time or memory."""
        if self._process is None or self._count >= RECYCLE:
            self._start()
        self._count += 1
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(struct.pack("<I", len(data)) + data)
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended()
        answer = _line(process.stdout, SECONDS * PATIENCE)
        if answer is None:
            self.close()
            return f"no end after {SECONDS * PATIENCE} s"
        return self._ended() if not answer else json.loads(answer)

    def _start(self) -> None:
        self.close()
        code = f"from fuzz.worker import serve; serve({self._function!r})"
        path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        self._count = 0

    def _ended(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(0)
        last = self._log.read()[-600:].decode(errors="replace")
        self.close()
        return f"the process ended with {code}: {last}"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _line(stream: IO[bytes], seconds: float) -> bytes | None:
    """A line, b"" at the end of the stream, None when it does not come in time."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else None


def _data_bytes() -> int:
    found = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
    return int(found[0].split()[1]) * 1024


def serve(function: str) -> None:
    """The worker's side."""
    from geminate.errors import GeminateError

    module, name = function.split(":")
    call = getattr(importlib.import_module(f"fuzz.{module}"), name)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    limit = _data_bytes() + GIGABYTE
    while len(head := sys.stdin.buffer.read(4)) == 4:
        data = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        started = time.process_time()
        wrong: str | None = None
        try:
            wrong = call(data)
        except GeminateError:
            pass
        except MemoryError:
            wrong = "more than 1 GB: " + _where()
        except BaseException:
            wrong = _where()
        if wrong is None and (took := time.process_time() - started) > SECONDS:
            wrong = f"{took:.1f} s of processor time"
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(wrong).encode() + b"\n")
            answers.flush()


def _where() -> str:
    lines = traceback.format_exc(limit=-4).strip().splitlines()
    return " | ".join(line.strip()[:300] for line in lines[-9:])
