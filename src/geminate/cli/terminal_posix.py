"""The terminal of POSIX systems; see `geminate.cli.terminal`."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

assert sys.platform != "win32"  # see `geminate.cli.terminal_windows`

_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)


@contextmanager
def unechoed(*, forget: bool = False) -> Iterator[None]:
    """While this lasts the terminal of standard input shows nothing of what is typed; Ctrl-C works as ever.

    The terminal is as before afterwards, also when the process is stopped or ended by a signal on the way.

    Args:
        forget: drop what was typed meanwhile.
    """
    fd = _terminal()
    if fd is None:
        yield
        return
    before = termios.tcgetattr(fd)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    kept = _on_signals(fd, before, silent)
    _set(fd, silent)
    try:
        yield
    finally:
        if forget and _foreground(fd):
            termios.tcflush(fd, termios.TCIFLUSH)
        _set(fd, before)
        for number in kept:
            signal.signal(number, signal.SIG_DFL)


def _on_signals(fd: int, before: list[Any], silent: list[Any]) -> list[signal.Signals]:
    """Restore the terminal before a signal takes the process away; the signals that had no other handler."""
    if threading.current_thread() is not threading.main_thread():
        return []

    def leave(number: int, frame: FrameType | None) -> None:
        _set(fd, before)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Only behind a stop does it go on here.
        signal.signal(number, leave)
        _set(fd, silent)

    free = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]
    for number in free:
        signal.signal(number, leave)
    return free


def _terminal() -> int | None:
    try:
        fd = sys.stdin.fileno()
        return fd if os.isatty(fd) and _foreground(fd) else None
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return None


def _foreground(fd: int) -> bool:
    """Whether the terminal is this process's to set: one in the background would be stopped."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def _set(fd: int, attributes: list[Any]) -> None:
    if _foreground(fd):
        termios.tcsetattr(fd, termios.TCSADRAIN, attributes)
