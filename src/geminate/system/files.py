"""Opening, reading at a place, naming and owning files."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import IO

# Flags for os.open of what should be a regular file: bytes as they are, not for child processes, never waiting.
if sys.platform == "win32":
    OPEN = os.O_BINARY | os.O_NOINHERIT
    NOFOLLOW = 0  # only administrators make links there
else:
    OPEN = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    NOFOLLOW = os.O_NOFOLLOW


def read_at(fd: int, size: int, at: int) -> bytes:
    """Up to ``size`` bytes of an open file from byte ``at`` on; on Windows this moves the file's position."""
    if sys.platform == "win32":
        os.lseek(fd, at, os.SEEK_SET)
        return os.read(fd, size)
    return os.pread(fd, size, at)


def read_into(fd: int, room: memoryview, at: int) -> int:
    """Fill ``room`` from byte ``at`` of an open file on; the number of bytes read, fewer at its end."""
    if sys.platform == "linux":
        return os.preadv(fd, [room], at)
    os.lseek(fd, at, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.readinto(room)


def same_user(found: os.stat_result, *, or_root: bool = False) -> bool:
    """Whether a file belongs to the user of this process; always so on Windows, where access lists guard profiles."""
    if sys.platform == "win32":
        return True
    return found.st_uid == os.getuid() or (or_root and found.st_uid == 0)


def others_write(found: os.stat_result) -> bool:
    """Whether other users may write a file, by its mode; never on Windows, see `same_user`."""
    return sys.platform != "win32" and bool(found.st_mode & 0o022)


def renamed(file: IO[bytes], path: Path) -> IO[bytes]:
    """Give an open temporary file, which is whole and on disk, the name ``path``; the file, open."""
    if sys.platform == "win32":  # which renames no open file
        file.close()
        os.replace(file.name, path)
        return path.open("rb")
    os.replace(file.name, path)
    return file


def anonymous_file() -> IO[bytes]:
    """A file without a name: in the temporary directory, else in memory.

    Raises:
        OSError: no place.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError:
        if sys.platform == "linux":
            return os.fdopen(os.memfd_create("geminate-weights"), "w+b")
        raise
