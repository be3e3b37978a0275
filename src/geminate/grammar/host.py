"""Starts the grammar processes and talks to them; see `geminate.grammar.worker` for what runs there."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from geminate.errors import GeminateError, GrammarBusyError
from geminate.grammar.matching import Answer, UnusableGrammarError

assert sys.platform != "win32"  # see `geminate.grammar.worker`
from geminate.grammar.worker import CLOSE, COMPILE, FOLLOW, FORK, HEAD, STEP, decode, exactly  # noqa: E402

COMPILE_SECONDS = 2.0  # of the processor
PATIENCE_S = 4.0  # for a compilation beside other work, and for the start of one
COMPILING = 2  # grammars at a time
START_SECONDS = 60.0  # for a large vocabulary on a slow machine
TICK_S = 0.05
SOON_S = 2.0  # from the end of a compilation to the start of the completion that it was for
NICE = 15  # of compilations, and of grammars whose masks take long: they yield to the engine
_BASE = 4 << 20  # bytes of a forked process before it has compiled anything
_STACK = 320 << 20  # bytes beyond the memory limit: the stack of the compiling thread
# A package without its contents: the grammar processes need neither NumPy nor the engine.
_BOOT = (
    "import sys, types; p = types.ModuleType('geminate'); p.__path__ = [sys.argv[1]]; sys.modules['geminate'] = p; "
    "from geminate.grammar.worker import main; main()"
)


class GrammarProcess:
    """One compiled grammar in its process; completions of it share the connection.

    Attributes:
        memory: bytes it has come to use. failure: why it ended, or None. gave_way: whether that was for others' sake.
    """

    def __init__(self, host: GrammarHost, conn: Connection, kill: _Killer) -> None:
        self._host, self._conn, self._kill = host, conn, kill
        weakref.finalize(self, _discard, conn, kill)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._takers: dict[int, Callable[[Answer], None]] = {}
        self._yields = False
        self._compiled_at = 0.0
        self.memory = 0
        self.failure: str | None = None
        self.gave_way = False
        self._joined = False

    def compile(self, source: str, cancelled: threading.Event | None) -> None:
        """Compile the grammar that this process is for.

        Raises:
            UnusableGrammarError: it cannot be used, or takes too much time or memory.
            GrammarBusyError: ``cancelled`` was set, or other work has left it too little time.
        """
        answers: list[Answer] = []
        self._takers[0] = answers.append
        began, before = time.monotonic(), self._kill.memory()
        self._send(bytes([COMPILE]) + source.encode())
        while not answers and self.failure is None:
            if cancelled is not None and cancelled.is_set():
                raise GrammarBusyError("the grammar was not compiled: its client has gone")
            used = self._kill.processor_seconds()
            if (time.monotonic() - began if used is None else used) > COMPILE_SECONDS:
                self.end(f"it was not compiled within {COMPILE_SECONDS:g} s; make it simpler")
            elif time.monotonic() - began > PATIENCE_S:
                raise GrammarBusyError("the machine is too busy to compile the grammar; try again in a few seconds")
            else:
                self.receive(TICK_S)
            if not answers and self.failure is None:
                self.memory = max(0, self._kill.memory() - before)
                if self.memory > self._host.each:
                    self.end(self._too_large)
                self._host.balance()
        del self._takers[0]
        self.check()
        self._compiled_at = time.monotonic()
        if answers[0].error is not None:
            raise UnusableGrammarError(answers[0].error)

    def check(self) -> None:
        """Fail if it has ended.

        Raises:
            UnusableGrammarError: through its own fault. GrammarBusyError: for others' sake.
        """
        if self.failure is not None:
            raise GrammarBusyError(self.failure) if self.gave_way else UnusableGrammarError(self.failure)

    def join(self, taker: Callable[[Answer], None]) -> int:
        """Start a completion whose answers go to ``taker``; its number."""
        with self._lock:
            number, self._joined = next(self._numbers), True
            self._takers[number] = taker
        return number

    def follow(self, number: int, keep: int, tokens: Sequence[int], first: int, forced: bool) -> None:
        """Ask for an answer; see `Matching.follow`."""
        count = len(tokens)
        self._send(
            STEP.pack(FOLLOW, number, keep, first, count, forced) + b"".join(HEAD.pack(token) for token in tokens)
        )

    def leave(self, number: int, *, busy: bool) -> None:
        """End a completion; with the last one, work that nobody waits for is stopped."""
        with self._lock:
            self._takers.pop(number, None)
            if busy and not self._takers:
                self.end("nobody waits for it any more")
            elif self.failure is None:
                self._send(STEP.pack(CLOSE, number, 0, 0, 0, False))

    def receive(self, timeout: float) -> None:
        """Hand out the answers that have come; wait up to ``timeout`` seconds for the first."""
        before = self.memory
        with self._lock:
            self._hand_out(timeout)
        if self.memory > before:
            self._host.balance()  # without this lock: it may end processes whose locks others hold

    def _hand_out(self, timeout: float) -> None:
        try:
            while self.failure is None and self._conn.poll(timeout):
                number, answer = decode(self._conn.recv_bytes())
                self.memory = answer.memory
                taker = self._takers.get(number)
                if taker is not None:
                    taker(answer)
                timeout = 0.0
        except (EOFError, OSError):
            self.end(f"its process has ended; most likely {self._too_large}")

    @property
    def _too_large(self) -> str:
        return f"it needs more than {self._host.each >> 20} MB of memory; make it simpler"

    @property
    def busy(self) -> bool:
        """Whether completions follow the grammar, are about to, or it is being compiled."""
        return bool(self._takers) or not (self._joined or time.monotonic() - self._compiled_at > SOON_S)

    def yield_processor(self) -> None:
        """From now on it runs only where nobody else wants the core; what is slow must not slow the engine down."""
        if not self._yields and self.failure is None:
            self._yields = True
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._kill.pid, NICE)

    def end(self, why: str) -> None:
        """Kill the process; completions that still follow the grammar fail with ``why``."""
        if self.failure is None:
            self.failure = why
            self._kill()
            if self._lock.acquire(blocking=False):  # else whoever waits for an answer sees that none comes
                try:
                    self._conn.close()
                finally:
                    self._lock.release()

    def _send(self, raw: bytes) -> None:
        with self._lock:
            if self.failure is not None:
                return
            try:
                self._conn.send_bytes(raw)
            except OSError:
                self._hand_out(0.0)
                self.end("its process has ended")


class GrammarHost:
    """The grammar processes of one model.

    Args:
        tokenizer: tokenizer.json. vocab_size: number of logits. eos_ids: tokens that end a sequence.
        limits: keyword arguments of llguidance's `LLParserLimits`.
        memory: bytes that all compiled grammars may use together, the process that holds the tokenizer aside.
    """

    def __init__(
        self,
        tokenizer: str,
        *,
        vocab_size: int,
        eos_ids: Sequence[int],
        limits: Mapping[str, Any],
        memory: int,
    ) -> None:
        self.memory, self.each = memory, memory // 2
        self._processes: weakref.WeakSet[GrammarProcess] = weakref.WeakSet()
        self._settings = {
            "tokenizer": tokenizer,
            "vocab_size": vocab_size,
            "eos_ids": list(eos_ids),
            "limits": dict(limits),
            "memory": self.each,
            "stack": _STACK,
            "nice": NICE,
        }
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(COMPILING)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def compile(self, source: str, cancelled: threading.Event | None = None) -> GrammarProcess:
        """A process with this grammar compiled.

        Args:
            cancelled: ends the work when it is set.

        Raises:
            UnusableGrammarError: the grammar cannot be used, or takes too much time or memory.
            GrammarBusyError: too many others are being compiled, or ``cancelled`` was set.
            GeminateError: the grammar processes cannot be started.
        """
        until = time.monotonic() + PATIENCE_S
        while not self._slots.acquire(timeout=TICK_S):
            if cancelled is not None and cancelled.is_set():
                raise GrammarBusyError("the grammar was not compiled: its client has gone")
            if time.monotonic() > until:
                raise GrammarBusyError("other grammars are being compiled; try again in a few seconds")
        try:
            process = self._fork()
            try:
                process.compile(source, cancelled)
            except BaseException:
                process.end("it was not compiled")
                raise
            self.balance()
            process.check()
            return process
        finally:
            self._slots.release()

    def start(self) -> None:
        """Start the process that holds the tokenizer, so that the first grammar need not wait for it.

        Raises:
            GeminateError: it does not start.
        """
        with self._lock:
            self._connect()

    def close(self) -> None:
        """End all processes; later compilations fail."""
        with self._lock:
            self._closed = True
            self._disconnect()

    @property
    def used(self) -> int:
        """Bytes that all grammars use."""
        return sum(process.memory + _BASE for process in list(self._processes) if process.failure is None)

    def balance(self) -> None:
        """End grammars until the others fit the memory: those that no completion follows first, then the largest."""
        living = [process for process in list(self._processes) if process.failure is None]
        total = sum(process.memory + _BASE for process in living)
        for process in sorted(living, key=lambda p: (p.busy, -p.memory)):
            if total <= self.memory:
                return
            total -= process.memory + _BASE
            process.gave_way = True
            process.end(f"the grammars of all requests need more than {self.memory >> 20} MB; try again later")

    def _fork(self) -> GrammarProcess:
        with self._lock:
            control = self._connect()
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(control, [FORK], [theirs.fileno()])
                (pid,) = HEAD.unpack(exactly(control, HEAD.size))
            except OSError as error:
                ours.close()
                self._disconnect()
                raise GeminateError(f"the grammar processes have ended ({error}); try again") from error
            finally:
                theirs.close()
            process = GrammarProcess(self, Connection(ours.detach()), _Killer(pid))
            self._processes.add(process)
            return process

    def _connect(self) -> socket.socket:
        if self._closed:
            raise GeminateError("the grammar processes were stopped")
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair()
        package = str(Path(__file__).resolve().parent.parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, package],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # the library reports a lack of memory there
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C in a terminal is not for it
            )
            text = json.dumps(self._settings).encode()
            ours.settimeout(START_SECONDS)
            ours.sendall(HEAD.pack(len(text)) + text)
            if ours.recv(1) != b"R":
                raise OSError("it ended while it loaded the tokenizer")
            ours.settimeout(START_SECONDS)
        except OSError as error:
            ours.close()
            raise GeminateError(f"the grammar processes cannot be started: {error}") from error
        finally:
            theirs.close()
        self._control = ours
        return ours

    def _disconnect(self) -> None:
        """The forking process ends its children, and itself, when the connection ends."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Killer:
    """Kills a process that is not this one's child, once; where there are descriptors of processes, never another."""

    def __init__(self, pid: int) -> None:
        self.pid, self._done = pid, False
        self._fd: int | None = None
        if sys.platform == "linux":
            self._fd = os.pidfd_open(pid)

    def processor_seconds(self) -> float | None:
        """Processor time that it has used; None where that is not known."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return None

    def memory(self) -> int:
        """Bytes of its own that it has in memory; 0 where that is not known."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
            return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def __call__(self) -> None:
        if self._done:
            return
        self._done = True
        with contextlib.suppress(ProcessLookupError):
            if sys.platform != "linux" or self._fd is None:
                os.kill(self.pid, signal.SIGKILL)
                return
            try:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            finally:
                os.close(self._fd)


def _discard(conn: Connection, kill: _Killer) -> None:
    """Nobody refers to the grammar any more."""
    conn.close()
    kill()
