"""The files of an audit log: rotated ones in their order, the one that is written, its lock and its last line."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geminate.audit.lines import HEAD, ORIGIN, DamagedLineError, Line, digest, read_line
from geminate.errors import AuditLogError, AuditLogInUseError
from geminate.system import locks
from geminate.system.files import OPEN, read_at

_TRIES = 20
_TAIL = 1 << 16  # bytes that are read from the end at first
_IN_USE = "another program writes to the audit log {}, and a log has one writer; name another file"


def rotated(path: Path) -> list[tuple[int, Path]]:
    """Numbers and paths of the files that were filled before, oldest first."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d{9,})")
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            if match := pattern.fullmatch(entry.name):
                found.append((int(match[1]), path.parent / entry.name))
    return sorted(found)


def numbered(path: Path, last: int) -> Path:
    """The path under which a filled file is kept: with the number of its last line."""
    return path.with_name(f"{path.name}.{last:09d}")


def files_of(path: Path) -> list[Path]:
    """All files of a log in the order of their lines.

    Raises:
        AuditLogError: there is none.
    """
    found = [file for _, file in rotated(path)]
    if path.exists():
        # A crash while the log was rotated leaves the same file under both names.
        found = [file for file in found if not os.path.samefile(file, path)] + [path]
    if not found:
        raise AuditLogError(f"there is no audit log {path}")
    return found


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The end of a log.

    Attributes:
        last: its last whole line; None where there is none. torn: the bytes behind it that are no line.
        unended: whether the last line lacks nothing but its line end.
    """

    last: Line | None
    torn: bytes = b""
    unended: bool = False

    @property
    def head(self) -> tuple[int, str]:
        """Number of the next line, and the hash that it follows."""
        return (0, ORIGIN) if self.last is None else (self.last.seq + 1, self.last.hash)


def open_for_writing(path: Path) -> int:
    """A descriptor that appends to the log, made if need be, with its lock held; the lock ends with the descriptor.

    Raises:
        AuditLogError: it cannot be opened, is no regular file, or another process writes to it.
    """
    for _ in range(_TRIES):
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | OPEN, 0o600)
        except OSError as error:
            raise AuditLogError(f"cannot open the audit log {path}: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise AuditLogError(f"the audit log {path} is no regular file; name another one")
            lock(fd, path)
            # Between opening and locking, the one who wrote may have rotated it away.
            if os.path.exists(path) and os.path.samestat(found, os.stat(path)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise AuditLogError(_IN_USE.format(path))


def lock(fd: int, path: Path) -> None:
    """Take the lock of an open file.

    Raises:
        AuditLogInUseError: another process holds it. AuditLogError: there are no locks.
    """
    try:
        locked = locks.try_lock(fd)
    except OSError as error:
        raise AuditLogError(f"cannot lock the audit log {path}: {error.strerror}") from None
    if not locked:
        raise AuditLogInUseError(_IN_USE.format(path))


def read_tail(fd: int, path: Path) -> Tail:
    """The end of an open log.

    Raises:
        AuditLogError: it is none, its last whole line is damaged, or it cannot be read.
    """
    try:
        size = os.fstat(fd).st_size
        whole, torn = _last_line(fd, size)
    except OSError as error:
        raise AuditLogError(f"cannot read the audit log {path}: {error.strerror}") from None
    if whole is None:
        if torn and not (torn.startswith(HEAD) or HEAD.startswith(torn)):
            raise AuditLogError(f"{path} is no audit log; name another file")
        last = None
    else:
        try:
            last = read_line(whole)
        except DamagedLineError as error:
            if not _begins_like_one(fd):
                raise AuditLogError(f"{path} is no audit log; name another file") from None
            raise AuditLogError(
                f"the last line of the audit log {path} is damaged ({error}), so nothing can be added to it; see "
                f"geminate audit verify {path}, then name another file"
            ) from None
    if torn:
        with contextlib.suppress(DamagedLineError):
            line = read_line(torn)
            if (line.seq, line.prev) == Tail(last=last).head:
                return Tail(last=line, unended=True)
    return Tail(last=last, torn=torn)


def _begins_like_one(fd: int) -> bool:
    return read_at(fd, len(HEAD), 0) == HEAD


def _last_line(fd: int, size: int) -> tuple[bytes | None, bytes]:
    """The last line that has an end, without it (None: there is none), and what stands behind it."""
    want = _TAIL
    while True:
        start = max(0, size - want)
        data = b"".join(_read(fd, start, size))
        before, end, torn = data.rpartition(b"\n")
        if end and (start == 0 or b"\n" in before):
            return before.rpartition(b"\n")[2], torn
        if start == 0:
            return None, torn
        want *= 4


def _read(fd: int, start: int, stop: int) -> Iterator[bytes]:
    while start < stop:
        data = read_at(fd, min(1 << 20, stop - start), start)
        if not data:
            return
        yield data
        start += len(data)


def tail_before(path: Path) -> Tail:
    """The end of the newest rotated file, which the log goes on behind; an empty tail where there is none.

    Raises:
        AuditLogError: it cannot be read, or is damaged at its end.
    """
    for _, file in reversed(rotated(path)):
        try:
            fd = os.open(file, os.O_RDONLY | OPEN)
        except OSError as error:
            raise AuditLogError(f"cannot read the audit log {file}: {error.strerror}") from None
        try:
            tail = read_tail(fd, file)
        finally:
            os.close(fd)
        if tail.torn:
            raise AuditLogError(f"the end of {file} is torn; see geminate audit verify {path}, then name another file")
        if tail.last is not None:
            return tail
    return Tail(last=None)


def torn_gap(torn: bytes) -> dict[str, object]:
    """The record that names a line which a crash has cut off."""
    return {"type": "gap", "why": "torn", "bytes": len(torn), "sha256": digest(torn)}
