"""Threads that give way to others."""

from __future__ import annotations

import os
import sys
import threading


def give_way(nice: int) -> None:
    """Lower the priority of this thread.

    Args:
        nice: as of nice(1), on Linux. Windows has the lowest of its normal ones; macOS has none for single threads.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    elif sys.platform == "win32":
        import ctypes

        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetCurrentThread.restype = ctypes.c_void_p
        kernel32.SetThreadPriority(ctypes.c_void_p(kernel32.GetCurrentThread()), -2)  # THREAD_PRIORITY_LOWEST
