"""Locks on files between processes; the system releases them when a process ends, however it ends.

Where there are none (Windows, some network file systems) every attempt says so and the caller goes on without.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

try:
    import fcntl
except ImportError:  # Windows: a file that is mapped cannot be removed there anyway
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.2


def share(fd: int) -> bool:
    """Take a shared lock of an open file, without waiting; it ends with the last copy of the descriptor.

    A memory map holds such a copy.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def hold(fd: int) -> bool:
    """Take the exclusive lock of an open file, without waiting; False if others hold one, or there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def in_use(path: str | os.PathLike[str]) -> bool:
    """Whether a process holds a lock of a file; False for what cannot be opened."""
    if fcntl is None:
        return False
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


@contextlib.contextmanager
def turn(path: str | os.PathLike[str], waiting: Callable[[], None]) -> Iterator[bool]:
    """Let one process at a time do what stands inside; ``path`` is a file for this alone, removed afterwards.

    Args:
        waiting: called again and again while another process holds the lock; what it raises ends the waiting.

    Yields:
        Whether another process was waited for. Where the file cannot be made or locked, nobody waits.
    """
    waited, fd = False, -1
    try:
        while fcntl is not None:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:  # no such directory, or not writable: whatever comes next will say so
                break
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                fd, waited = -1, True
                waiting()
                time.sleep(POLL_S)
                continue
            except OSError:
                break
            # Whoever held it may have removed the file between opening and locking.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    break
            os.close(fd)
            fd = -1
        yield waited
    finally:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(fd)
