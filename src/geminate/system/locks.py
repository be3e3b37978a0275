"""Locks of open files, which end with the descriptor: a killed process leaves none behind."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from geminate.system.files import OPEN

POLL_S = 0.2

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

    def try_share(fd: int) -> bool:
        """Nothing: Windows removes no file that is open or mapped."""
        return False

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

    def try_share(fd: int) -> bool:
        """Take a shared lock of an open file; False if another descriptor has the lock, or there are no locks.

        It ends with the last copy of the descriptor; a memory map holds one.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether a descriptor has a lock of a file, shared or not; False for what cannot be opened or locked."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | OPEN)
        try:
            return not try_lock(fd)
        finally:
            os.close(fd)
    return False


@contextlib.contextmanager
def turn(path: str | os.PathLike[str], waiting: Callable[[], None]) -> Iterator[bool]:
    """Let one process at a time do what stands inside; ``path`` is a file for this alone, removed afterwards.

    Args:
        waiting: called again and again while another process has the lock; what it raises ends the waiting.

    Yields:
        Whether another process was waited for. Where the file cannot be made or locked, nobody waits.
    """
    waited, fd = False, -1
    try:
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | OPEN, 0o600)
                locked = try_lock(fd)
            except OSError:  # no such directory, not writable, no locks: whatever comes next will say so
                break
            # Whoever had it may have removed the file between opening and locking.
            if locked and _is_at(fd, path):
                break
            os.close(fd)
            fd = -1
            if not locked:
                waited = True
                waiting()
                time.sleep(POLL_S)
        yield waited
    finally:
        if fd >= 0:
            _removed(fd, path)


def _is_at(fd: int, path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _removed(fd: int, path: str | os.PathLike[str]) -> None:
    """Remove a lock's file while it is locked; Windows removes it only once it is closed."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    os.close(fd)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            os.unlink(path)
