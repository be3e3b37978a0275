"""Writes blocks to the prefix store in a thread of its own, and removes the least recently used ones beyond its bound.

Nobody waits for it: what comes faster than the disk takes it is dropped. Files are written under other names and
renamed, so a reader sees whole ones only, whatever kills the writer. No lock is held on the directory: several
processes write and remove as they like, and a file that is gone is simply not there.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from geminate.kv.block_file import header, header_bytes
from geminate.kv.store import BlockData
from geminate.replacing import replacing
from geminate.system.priority import give_way

QUEUE_BYTES = 64 << 20  # blocks that wait for the disk; at least four of them
RESCAN = 256  # blocks written between two looks at what others have written and removed
FREE = 0.05  # of the bound that is made free at once: a look at the directory takes a while
ABANDONED_S = 3600  # after which a temporary file belongs to a run that was killed
RETRY_S = 30.0  # after a write that failed
TOUCH_S = 60.0  # between two notes that the same prefix was used
TOUCHED = 1_000  # prefixes whose last note is remembered
NICE = 10  # of the thread: answers come first
SUFFIX, TEMPORARY = ".kv", ".writing-"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredName:
    """The name of a block: its hash, and how many blocks stand before it."""

    hash: bytes
    index: int

    def path(self, directory: str) -> str:
        """Where it stands."""
        text = self.hash.hex()
        return f"{directory}/{text[:2]}/{text}-{self.index}{SUFFIX}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    name: StoredName
    data: BlockData
    used_ns: int


class BlockWriter:
    """The writing side of a prefix store.

    Args:
        directory: exists. limit: bytes of all files together. sizes: bytes of a block's sections.
        say: called from the thread with what a user should know, each cause once.

    Attributes:
        pending: hashes of the blocks that wait.
        nbytes: of the files, as last seen, other processes' included.
        errors, dropped, removed: writes that failed, blocks for which the queue had no room, blocks removed.
    """

    def __init__(self, directory: Path, *, limit: int, sizes: Sequence[int], say: Callable[[str], None]) -> None:
        self.directory, self.limit, self.sizes = str(directory), limit, tuple(sizes)
        self.nbytes = self.errors = self.dropped = self.removed = 0
        self._file_bytes = header_bytes(len(sizes)) + sum(sizes)
        self._most = max(QUEUE_BYTES, 4 * sum(sizes))
        self._say, self._said = say, set[str]()
        self._queue: deque[_Block | tuple[list[StoredName], int]] = deque()
        self.pending = set[bytes]()
        self._queued = 0
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None
        self._since_scan = 0
        self._rests_until = 0.0
        self._touched: OrderedDict[bytes, float] = OrderedDict()

    def put(self, name: StoredName, data: BlockData, used_ns: int) -> bool:
        """Queue a block; False if it is dropped."""
        with self._changed:
            if self._closed or time.monotonic() < self._rests_until or self._queued + len(data) > self._most:
                self.dropped += 1
                return False
            self._queued += len(data)
            self.pending.add(name.hash)
            self._enqueue(_Block(name=name, data=data, used_ns=used_ns))
        return True

    def touch(self, names: Sequence[StoredName], used_ns: int) -> None:
        """Note that consecutive blocks were used."""
        if not names:
            return
        tip, now = names[-1].hash, time.monotonic()
        with self._changed:
            if self._closed or self._touched.get(tip, -TOUCH_S) + TOUCH_S > now:
                return
            self._touched[tip] = now
            self._touched.move_to_end(tip)
            while len(self._touched) > TOUCHED:
                self._touched.popitem(last=False)
            self._enqueue((list(names), used_ns))

    def _enqueue(self, item: _Block | tuple[list[StoredName], int]) -> None:
        self._queue.append(item)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prefix store", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued is written; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._queue or self._busy), seconds)

    def close(self, seconds: float) -> None:
        """Write what is queued, for ``seconds`` at most, and end the thread."""
        self.flush(seconds)
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        give_way(NICE)
        self._scan()
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                item = self._queue.popleft()
                self._busy = True
            if isinstance(item, _Block):
                self._take(item)
                with self._changed:
                    self._queued -= len(item.data)
                    self.pending.discard(item.name.hash)
            else:
                self._note(*item)

    def _note(self, names: list[StoredName], used_ns: int) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.utime(name.path(self.directory), ns=(used_ns, used_ns))

    def _take(self, block: _Block) -> None:
        try:
            if self._make_room() and not os.path.exists(block.name.path(self.directory)):
                self._write(block)
                self.nbytes += self._file_bytes
                self._since_scan += 1
        except OSError as error:
            self.errors += 1
            self._rests_until = time.monotonic() + RETRY_S
            self._tell(f"cannot write to the prefix store {self.directory} ({error.strerror}); answers do not need it")

    def _tell(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)

    def _write(self, block: _Block) -> None:
        path = block.name.path(self.directory)
        folder = os.path.dirname(path)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        head = header(block.name.hash, block.name.index, self.sizes, block.data)
        with replacing(path, TEMPORARY) as file:
            _write_all(file.fileno(), head)
            _write_all(file.fileno(), block.data)
        # All blocks of a prompt are as old as its last use; of equals the later block goes first.
        os.utime(path, ns=(block.used_ns, block.used_ns))

    def _make_room(self) -> bool:
        """Remove what was not used for longest until a further block fits; False if none ever will."""
        if self._file_bytes > self.limit:
            self._tell(
                f"a block of the prefix store takes {self._file_bytes:,} bytes, and its limit is {self.limit:,}: "
                "nothing is stored; raise --prefix-store-bytes"
            )
            return False
        if self._since_scan < RESCAN and self.nbytes + self._file_bytes <= self.limit:
            return True
        found = self._scan()
        if self.nbytes + self._file_bytes > self.limit:
            goal = self.limit - max(self._file_bytes, int(FREE * self.limit))
            for _, _, size, path in found:
                if self.nbytes <= goal:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    self.removed += 1
                self.nbytes -= size
        return True

    def _scan(self) -> list[tuple[int, int, int, str]]:
        """`_files`, those first that go first."""
        found = sorted(self._files())
        self.nbytes, self._since_scan = sum(size for _, _, size, _ in found), 0
        return found

    def _files(self) -> Iterator[tuple[int, int, int, str]]:
        """(last use in ns, - index, bytes, path) of every block; temporary files of killed runs are removed."""
        now = time.time()
        for folder in _entries(self.directory):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in _entries(folder.path):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    if entry.name.startswith(TEMPORARY):
                        if now - found.st_mtime > ABANDONED_S:
                            os.unlink(entry.path)
                    elif entry.name.endswith(SUFFIX):
                        index = entry.name.removesuffix(SUFFIX).rpartition("-")[2]
                        yield found.st_mtime_ns, -int(index) if index.isdigit() else 0, found.st_size, entry.path


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _write_all(file: int, data: BlockData) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
