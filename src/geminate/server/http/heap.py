"""Keeps the server's memory small: one heap for all threads, and freed memory given back after large requests."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_M_ARENA_MAX = -8  # of glibc's malloc.h
_wanted = False


def _of_c_library(name: str) -> Any:
    """A function of glibc; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def share_one_heap() -> None:
    """Let the C library use one heap for all threads; called before there are threads.

    Otherwise every thread has a heap of its own, and each keeps pages that large bodies have left behind: 13 MB after
    ten minutes of mixed load, 50 MB after an hour. Python's threads allocate one at a time, so nothing waits.
    ``MALLOC_ARENA_MAX`` in the environment has the last word. Other C libraries have no such switch.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = _of_c_library("mallopt")
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)


def request_trim() -> None:
    """Note that much memory was freed; the next `trim` gives it back."""
    global _wanted
    _wanted = True


def trim() -> None:
    """Give freed memory back if it was asked for and the C library can; takes milliseconds."""
    global _wanted
    if not _wanted:
        return
    _wanted = False
    malloc_trim = _of_c_library("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)
