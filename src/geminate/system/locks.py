"""Exclusive locks of open files, which end with the descriptor: a killed process leaves none behind."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _EXCLUSIVE, _AT_ONCE = 2, 1  # LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY
    _LOCK_VIOLATION = 33
    # Locked bytes cannot be read by others, so one is locked where no file has any.
    _AT_HIGH = 0x7FFFFFFF

    class _Overlapped(ctypes.Structure):
        _fields_ = [
            ("internal", ctypes.c_void_p),
            ("internal_high", ctypes.c_void_p),
            ("offset", wintypes.DWORD),
            ("offset_high", wintypes.DWORD),
            ("event", wintypes.HANDLE),
        ]

    def try_lock(fd: int) -> bool:
        """Lock an open file; False if another descriptor has the lock.

        Raises:
            OSError: the file system knows no locks.
        """
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(fd))
        where = _Overlapped(offset_high=_AT_HIGH)
        if kernel32.LockFileEx(handle, _EXCLUSIVE | _AT_ONCE, 0, 1, 0, ctypes.byref(where)):
            return True
        if ctypes.get_last_error() == _LOCK_VIOLATION:
            return False
        raise ctypes.WinError(ctypes.get_last_error())

else:
    import fcntl

    def try_lock(fd: int) -> bool:
        """Lock an open file; False if another descriptor has the lock.

        Raises:
            OSError: the file system knows no locks.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
