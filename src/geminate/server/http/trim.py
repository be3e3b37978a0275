"""Gives memory that the C library keeps after large requests back to the system."""

from __future__ import annotations

import ctypes

_wanted = False


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
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
