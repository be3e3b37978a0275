"""A time limit for Python code that may never return, in the thread that called it.

A watch thread raises an exception in the late thread, as a debugger would. It arrives between two bytecodes: a call
into C ends first, so what is called must have bounds of its own.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
AGAIN_S = 0.25  # a finalizer may swallow the exception: it is raised again until the work has ended


class _Late(BaseException):
    """Raised by the watch; no `Exception`, so that code under it cannot handle it by accident."""


class _Entry:
    """A piece of work with its time limit.

    Attributes:
        live: whether the work runs. sending: whether the watch may be raising the exception just now.
        sent: whether it ever did.
    """

    def __init__(self, seconds: float) -> None:
        self.thread = threading.get_ident()
        self.due = time.monotonic() + seconds
        self.live, self.sending, self.sent = True, False, False

    def send(self) -> None:
        """Raise the exception in the work's thread; called by the watch."""
        self.sending = True
        if self.live:
            self.sent = True
            _raise_in(self.thread)
        self.sending = False

    def end(self) -> None:
        """No exception comes from here on. One that comes meanwhile is dropped.

        Without a lock: the exception could arrive between taking one and the block that gives it back. One that may
        be on its way is replaced and waited for. Clearing it would leave CPython 3.11's flag for it set, and every
        loop of the process would be slower from then on (and endless under a tracer).
        """
        last = False
        while True:
            try:
                self.live = False
                while self.sending:
                    time.sleep(0)
                if not self.sent:
                    return
                last = True
                _raise_in(self.thread)
                while True:
                    time.sleep(0)
            except _Late:
                if last:
                    return


def _raise_in(thread: int) -> None:
    """Set the exception that a thread raises at its next bytecode; there is room for one."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Late))


class _Watch:
    """One daemon thread for all entries; it sleeps until the next of them is due."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._entries: list[_Entry] = []
        self._wakes = float("inf")
        self._thread: threading.Thread | None = None

    def begin(self, entry: _Entry) -> None:
        with self._changed:
            self._entries.append(entry)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif entry.due < self._wakes:
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                self._entries = [entry for entry in self._entries if entry.live]
                for entry in self._entries:
                    if entry.due <= now:
                        entry.due = now + AGAIN_S
                        entry.send()
                self._wakes = min((entry.due for entry in self._entries), default=float("inf"))
                self._changed.wait(None if self._wakes == float("inf") else max(0.0, self._wakes - now))


_watch = _Watch()


def _after_fork() -> None:
    global _watch
    _watch = _Watch()  # threads are not copied, and the lock may have been held


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """The result of ``work``, in this thread.

    Raises:
        TimeoutError: it was stopped after ``seconds``. Whatever ``work`` raises.
    """
    entry = _Entry(seconds)
    _watch.begin(entry)
    try:
        try:
            return work()
        finally:
            entry.end()
    except _Late:
        entry.end()
        raise TimeoutError(f"it took longer than {seconds:g} s") from None
