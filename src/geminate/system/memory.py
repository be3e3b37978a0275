"""The machine's memory, as the system tells it."""

from __future__ import annotations

import ctypes
import os
import sys

if sys.platform == "win32":

    class _Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            ("total", ctypes.c_uint64),
            ("available", ctypes.c_uint64),
            *((name, ctypes.c_uint64) for name in ("page_total", "page_free", "space_total", "space_free", "more")),
        ]

    def _status() -> _Status:
        status = _Status(length=ctypes.sizeof(_Status))
        if not ctypes.WinDLL("kernel32", use_last_error=True).GlobalMemoryStatusEx(ctypes.byref(status)):
            raise ctypes.WinError(ctypes.get_last_error())
        return status


def installed_bytes() -> int:
    """Memory of the machine."""
    if sys.platform == "win32":
        return int(_status().total)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int | None:
    """Memory that can be used without swapping; None where the system does not say, as on macOS."""
    if sys.platform == "win32":
        return int(_status().available)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
