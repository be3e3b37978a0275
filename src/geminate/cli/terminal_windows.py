"""The console of Windows; see `geminate.cli.terminal`. Has not been run there."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

assert sys.platform == "win32"

_STDIN = -10
_ECHO = 0x0004  # ENABLE_ECHO_INPUT


@contextmanager
def unechoed(*, forget: bool = False) -> Iterator[None]:
    """While this lasts the console of standard input shows nothing of what is typed; Ctrl-C works as ever.

    Args:
        forget: drop what was typed meanwhile.
    """
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetStdHandle.restype = ctypes.c_void_p
    console = ctypes.c_void_p(kernel32.GetStdHandle(_STDIN))
    mode = ctypes.c_uint32(0)
    if not kernel32.GetConsoleMode(console, ctypes.byref(mode)):  # a pipe, or a file
        yield
        return
    kernel32.SetConsoleMode(console, mode.value & ~_ECHO)
    try:
        yield
    finally:
        if forget:
            kernel32.FlushConsoleInputBuffer(console)
        kernel32.SetConsoleMode(console, mode.value)
