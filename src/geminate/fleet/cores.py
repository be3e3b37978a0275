"""Which cores a replica has for itself: locked files name them, so that a killed process gives them back."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from geminate.system import locks

_HELD: list[int] = []  # descriptors of the locks, open as long as the process lives


def directory() -> Path:
    """Where the locks of this user's replicas on this machine are."""
    name = "geminate-cores"
    if sys.platform != "win32":  # where every user has a temporary directory
        name += f"-{os.getuid()}"
    return Path(tempfile.gettempdir()) / name


def _locked(lock: int) -> bool:
    try:
        return locks.try_lock(lock)
    except OSError:
        return False


def pin(count: int) -> list[int]:
    """Keep this thread, and those that it starts, on cores that no other replica here has.

    Args:
        count: how many.

    Returns:
        the cores; empty, and nothing is pinned, where not so many are free or the system has no such thing.
    """
    if sys.platform != "linux":
        return []
    place = directory()
    place.mkdir(mode=0o700, exist_ok=True)
    taken: dict[int, int] = {}
    for core in sorted(os.sched_getaffinity(0)):
        if len(taken) == count:
            break
        lock = os.open(place / str(core), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locked(lock):
            taken[core] = lock
        else:
            os.close(lock)
    if len(taken) < count:
        for lock in taken.values():
            with contextlib.suppress(OSError):
                os.close(lock)
        return []
    _HELD.extend(taken.values())
    os.sched_setaffinity(0, taken.keys())
    return sorted(taken)
