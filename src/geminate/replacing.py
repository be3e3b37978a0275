"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import BinaryIO

from geminate.system import locks

YOUNG_S = 60.0  # age below which a temporary file may not have its lock yet
ABANDONED_S = 24 * 3600.0  # age from which one belongs to a killed run, where there are no locks


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], prefix: str, *, durable: bool = False, public: bool = False
) -> Iterator[BinaryIO]:
    """A file for writing that takes the name ``path`` at the end; if anything fails before, it is removed.

    While it is written it has an exclusive lock, by which `remove_abandoned` tells it from those of killed runs.

    Args:
        prefix: of its name until then, of which nobody can guess the rest: in a directory that others can write, a link
            could wait under a known one.
        durable: write it to the disk before it takes the name: what a power failure leaves is the old file or the new.
        public: let other users read it, as far as the umask allows; otherwise only its owner does.

    Raises:
        OSError: it cannot be made, written or renamed; something else has the name, such as a device or a link.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=prefix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # not a name that nobody gave
    with contextlib.suppress(OSError):  # a file system without locks
        locks.try_lock(handle)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
                os.utime(temporary)  # young, for the moment between closing and renaming in which it has no lock
            if public:
                os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_abandoned(directory: str | os.PathLike[str], prefix: str) -> None:
    """Remove the temporary files that killed runs of `replacing` left in a directory.

    Args:
        prefix: as `replacing` had it.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if not entry.name.startswith(prefix):
                continue
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                age = time.time() - found.st_mtime
                if not stat.S_ISREG(found.st_mode) or age < YOUNG_S:
                    continue
                if age > ABANDONED_S or _is_unlocked(entry.path):
                    os.unlink(entry.path)


def _is_unlocked(path: str) -> bool:
    """Whether nobody writes a temporary file any more.

    Raises:
        OSError: there are no locks, or no file.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        return locks.try_lock(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask; there is no way to read it alone but from Linux's /proc."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status", encoding="utf-8") as status:
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    return 0o022
