"""Writes an audit log in a thread of its own: nobody who adds a record waits for the disk.

Lines are only ever appended. One that a crash cut off stays, and a record behind it names it; records that found no
place because the disk was full are counted in one. A filled file gets a number and the chain goes on in a new one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geminate.audit import files
from geminate.audit.lines import FORMAT, sealed
from geminate.audit.options import AuditOptions
from geminate.errors import AuditLogError
from geminate.system.files import OPEN

QUEUE_BYTES = 64 << 20  # estimated, of records that wait for the disk
LINE_BYTES = 1024  # of a record without ids or body, roughly
WRITE_BYTES = 1 << 20  # that are written at once
SYNC_S = 1.0  # of the policy "interval"
RETRY_S = 1.0  # after a write that failed
LOOK_S = 1.0  # between two looks whether the file is still there
CLOSE_S = 5.0

Record = Mapping[str, Any]


def now(at: float | None = None) -> str:
    """A time (default: now) in UTC with milliseconds, as RFC 3339 writes it."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AuditLog:
    """The writing side of an audit log; every method may be called from any thread.

    Args:
        path: the file. options: of the log. say: called with what whoever runs the program should know, each cause
            once; from the log's thread too.

    Attributes:
        lines: lines written. lost: records for which there was no place.
        head: number and hash of the last line that was written; None before the first.
        failure: why no line can be written now; None if lines can.

    Raises:
        AuditLogError: the file cannot be opened, is no audit log, is damaged at its end, or has another writer.
    """

    def __init__(self, path: str | Path, options: AuditOptions, *, say: Callable[[str], None]) -> None:
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self.options, self._say = options, say
        self.lines = self.lost = 0
        self.failure: str | None = None
        self._fd = files.open_for_writing(self.path)
        try:
            self._tail = self._find_tail()
        except BaseException:
            os.close(self._fd)
            raise
        self._seq, self._prev = self._tail.head
        self.head: tuple[int, str] | None = None if self._seq == 0 else (self._seq - 1, self._prev)
        self._size = os.fstat(self._fd).st_size
        self._rotate_from = options.file_bytes
        self._changed = threading.Condition()
        self._queue: deque[tuple[Callable[[], Record], int]] = deque()
        self._queued = self._unnamed = 0  # bytes; records lost since the last one that names some
        self._buffer = bytearray()
        self._heads: deque[tuple[int, int, str]] = deque()  # of lines in the buffer: bytes up to its end, seq, hash
        self._start: dict[str, Any] = {}
        self._busy = self._closed = False
        self._unsynced: float | None = None
        self._looked = time.monotonic()
        self._said: set[str] = set()
        self._thread: threading.Thread | None = None

    def _find_tail(self) -> files.Tail:
        numbered = files.rotated(self.path)
        if numbered and os.path.samefile(numbered[-1][1], self.path):
            os.unlink(numbered[-1][1])  # a crash came between the two names of a rotation
        tail = files.read_tail(self._fd, self.path)
        if tail.last is None:
            before = files.tail_before(self.path)
            tail = files.Tail(last=before.last, torn=tail.torn)
        return tail

    def start(self, facts: Record) -> None:
        """Begin to write: the facts about the program and its model, behind what is to be said of a crash before.

        Args:
            facts: fields of every record that begins a run or a file.
        """
        tail, self._start = self._tail, {**FORMAT, **facts, "type": "start"}
        records: list[Record] = [files.torn_gap(tail.torn)] if tail.torn else []
        records.append({**self._start, "why": "new" if tail.last is None else "continued"})
        if tail.last is not None and tail.last.type != "stop" and not tail.torn:
            records.append({"type": "gap", "why": "crash"})
        if tail.unended or tail.torn:
            self._buffer += b"\n"
        with self._changed:
            for record in records:
                self._queue.append((self._timed(record), 0))
            self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
            self._thread.start()

    @staticmethod
    def _timed(record: Record) -> Callable[[], Record]:
        made = {**record, "time": now()}
        return lambda: made

    @property
    def started(self) -> bool:
        """Whether records are taken."""
        return self._thread is not None and not self._closed

    @property
    def full(self) -> bool:
        """Whether the next record would be lost."""
        return self._queued > QUEUE_BYTES

    def put(self, make: Callable[[], Record], nbytes: int = 0) -> bool:
        """Add a record; False if there is no place for it.

        Args:
            make: makes it, in the log's thread. nbytes: of ids and bodies in it, roughly.
        """
        with self._changed:
            if not self.started or self.full:
                self.lost += 1
                self._unnamed += 1
                return False
            self._queued += nbytes + LINE_BYTES
            self._queue.append((make, nbytes + LINE_BYTES))
            self._changed.notify_all()
        return True

    def _name_lost(self) -> None:
        """Queue a record that counts those for which there was no place; the lock is held."""
        if self._unnamed:
            self._queue.append((self._timed({"type": "gap", "why": "lost", "lines": self._unnamed}), 0))
            self._unnamed = 0

    def flush(self, seconds: float) -> bool:
        """Wait until everything that was added is written; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._queue or self._busy), seconds)

    def close(self, *, unfinished: int = 0, seconds: float = CLOSE_S) -> bool:
        """Write what is queued and a record that says that the log was closed; False if that could not be done.

        Args:
            unfinished: requests that were running, which have no line. seconds: after which the rest is given up.
        """
        with self._changed:
            if self._closed:
                return True
            if self._thread is None:
                self._closed = True
                os.close(self._fd)
                return True
            self._name_lost()
            self._queue.append((self._timed({"type": "stop", "unfinished": unfinished}), 0))
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        done = not self._thread.is_alive() and not self._buffer and self.failure is None
        if not done:
            self._tell(f"the end of the audit log {self.path} could not be written: {self.failure or 'no time left'}")
        return done

    def _tell(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            with contextlib.suppress(Exception):  # a log that cannot be written either
                self._say(message)

    def _run(self) -> None:
        try:
            while self._round():
                pass
        except BaseException as error:
            self.failure = f"{type(error).__name__}: {error}"
            self._tell(f"the audit log {self.path} ended: {self.failure}")
        finally:
            os.close(self._fd)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _round(self) -> bool:
        """Write what is queued; False at the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or self._closed, self._pause())
            self._name_lost()
            items, closing = list(self._queue), self._closed
            self._queue.clear()
            self._busy = True
        if items:
            self._look()
        for make, cost in items:
            self._add(make)
            with self._changed:
                self._queued -= cost
            if not self._room():
                return False
        return self._write_all() and self._sync_now(closing) and not closing

    def _pause(self) -> float | None:
        """Seconds until a sync is due; None: there is nothing to sync."""
        if self._unsynced is None:
            return None
        return max(0.0, self._unsynced + SYNC_S - time.monotonic())

    def _add(self, make: Callable[[], Record]) -> None:
        try:
            self._chain(make())
        except (ValueError, TypeError) as error:  # never seen; a record must not end the log
            self.lost += 1
            self._tell(f"a record of the audit log could not be written: {type(error).__name__}: {error}")
            self._chain({"type": "gap", "why": "lost", "lines": 1, "time": now()})

    def _chain(self, record: Record) -> None:
        line, own = sealed(record, self._seq, self._prev)
        self._buffer += line
        self._heads.append((len(self._buffer), self._seq, own))
        self._seq, self._prev = self._seq + 1, own

    def _room(self) -> bool:
        """Write, and begin a new file, where there is enough for that; False to give up."""
        full = self._size + len(self._buffer) >= self._rotate_from
        if len(self._buffer) < WRITE_BYTES and not full:
            return True
        if not self._write_all():
            return False
        if full:
            self._rotate()
        return True

    def _write_all(self) -> bool:
        """Write the buffer, trying again until the log is closed; whether all of it is written."""
        while self._buffer:
            try:
                self._write_some()
            except OSError as error:
                if not self._wait_after(f"cannot write the audit log {self.path}: {error.strerror}", error):
                    return False
        return True

    def _write_some(self) -> None:
        written = os.write(self._fd, bytes(self._buffer[:WRITE_BYTES]))
        del self._buffer[:written]
        self._size += written
        while self._heads and self._heads[0][0] <= written:
            _, seq, own = self._heads.popleft()
            self.head, self.lines = (seq, own), self.lines + 1
        self._heads = deque((end - written, seq, own) for end, seq, own in self._heads)
        if self._unsynced is None and self.options.audit_fsync != "never":
            self._unsynced = time.monotonic()
        if self.failure is not None and self.options.audit_fsync == "never":
            self._recovered()

    def _wait_after(self, message: str, error: OSError) -> bool:
        """Note a failure and wait a while; False if the log was closed."""
        self.failure = error.strerror or type(error).__name__
        self._tell(message)
        with self._changed:
            return not self._changed.wait_for(lambda: self._closed, RETRY_S)

    def _recovered(self) -> None:
        self.failure = None
        self._said.clear()
        self._tell(f"the audit log {self.path} can be written again")

    def _sync_now(self, closing: bool) -> bool:
        """Force lines to the disk where that is due; False to give up."""
        while self._unsynced is not None:
            due = closing or self.options.audit_fsync == "always" or self.failure is not None
            if not due and time.monotonic() < self._unsynced + SYNC_S:
                return True
            try:
                os.fsync(self._fd)
            except OSError as error:
                if not self._wait_after(f"cannot force the audit log {self.path} to the disk: {error.strerror}", error):
                    return False
                continue
            self._unsynced = None
            if self.failure is not None:
                self._recovered()
        return True

    def _look(self) -> None:
        """Notice, between two lines, that the file was moved or removed: the chain goes on in a new one."""
        if time.monotonic() < self._looked + LOOK_S or self._buffer:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._fd), os.stat(self.path)):
                return
        moved = f"the audit log {self.path} was moved or removed while in use"
        try:
            fd = files.open_for_writing(self.path)
        except AuditLogError as error:
            self._tell(f"{moved}; lines still go where it is now: {error}")
            return
        if os.fstat(fd).st_size:
            os.close(fd)
            self._tell(f"{moved}; lines still go where it is now, since {self.path} is another file")
            return
        os.close(self._fd)
        self._fd, self._size, self._rotate_from = fd, 0, self.options.file_bytes
        self._tell(f"{moved}; it goes on in a new file")
        self._chain({**self._start, "why": "moved", "time": now()})

    def _rotate(self) -> None:
        """Keep the file under a number and begin a new one; but on Windows the name is never without a file."""
        fresh = self.path.with_name(self.path.name + ".new")
        kept = files.numbered(self.path, self._seq - 1)
        if sys.platform == "win32":
            self._rotate_closed(kept)
            return
        fd, made = -1, [fresh]
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            fd = os.open(fresh, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | OPEN, 0o600)
            files.lock(fd, fresh)
            os.link(self.path, kept)
            made.append(kept)
            os.replace(fresh, self.path)
        except (OSError, AuditLogError) as error:
            if fd >= 0:
                os.close(fd)
            for path in made:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            self._not_rotated(error)
            return
        self._sync_whole()
        os.close(self._fd)
        self._begin_file(fd)

    def _rotate_closed(self, kept: Path) -> None:
        """`_rotate` where open files cannot be renamed: for a moment the log has no lock, and may have no file."""
        self._sync_whole()
        os.close(self._fd)
        try:
            os.rename(self.path, kept)
        except OSError as error:
            self._fd = files.open_for_writing(self.path)
            self._not_rotated(error)
            return
        self._begin_file(files.open_for_writing(self.path))

    def _not_rotated(self, error: Exception) -> None:
        self._rotate_from = self._size + self.options.file_bytes // 8
        self._tell(f"cannot begin a new file of the audit log {self.path}, the old one goes on: {error}")

    def _sync_whole(self) -> None:
        if self.options.audit_fsync != "never":
            with contextlib.suppress(OSError):  # the lines are in the file; whatever is wrong with the disk comes again
                os.fsync(self._fd)

    def _begin_file(self, fd: int) -> None:
        self._fd, self._size, self._rotate_from = fd, 0, self.options.file_bytes
        self._chain({**self._start, "why": "rotated", "time": now()})
