"""The signals of ``geminate fleet up``: they end a start at once, and let a running fleet finish what it has."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

LOG = 2  # stderr
NUMBERS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class Interrupted(BaseException):
    """A signal has come while nobody waits for one: leave, and clean up."""


class Signals:
    """The handlers of a process; made in its main thread."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._waiting = self._stopped = self._raised = False
        self._terminal = os.isatty(LOG)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """The handlers are set, those of before again afterwards."""
        before = {number: signal.getsignal(number) for number in NUMBERS}
        self.take()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def take(self) -> None:
        """Set the handlers again, after somebody else has set others."""
        for number in NUMBERS:
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """In the block signals are noted for `wait`; outside they raise `Interrupted`."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def wait(self) -> bool:
        """Wait for a signal; True: stop, False: read the configuration again."""
        self._news.wait()
        self._news.clear()
        return self._stopped

    def _handle(self, number: int, frame: Any) -> None:
        hung_up = hasattr(signal, "SIGHUP") and number == signal.SIGHUP
        if hung_up and not (self._terminal and not os.isatty(LOG)):
            if self._waiting:
                self._news.set()
            return  # there is nothing to read again yet, or any more
        if self._waiting:
            self._stopped = True
            self._news.set()
        elif not self._raised:
            self._raised = True  # once: what is cleaned up behind it must not be cut short
            raise Interrupted
