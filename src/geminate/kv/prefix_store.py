"""KV blocks of prompts in a directory, addressed by content: they outlive the process that computed them.

A block's name is a chain of hashes: of what the numbers depend on (weights, arithmetic, format; the ``identity``), then
block by block of what stands at its positions (token ids, digests of images and sounds). By the numeric contract the
bytes found under a name are those that would be computed, so an answer never depends on what is found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from geminate.errors import PrefixStoreError
from geminate.kv.block_file import NAME_BYTES, DamagedBlockError, read_block
from geminate.kv.block_writer import BlockWriter, StoredName
from geminate.kv.prefix_tree import ContentSpan, block_key
from geminate.kv.store import BLOCK, BlockData, KVFactory, KVStore, first_needed
from geminate.replacing import replacing
from geminate.system import files

MARKER = "geminate-prefix-store.json"
VERSION = 1
DEFAULT_BYTES = 4 << 30
CLOSE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStats:
    """Counts since the start.

    Attributes:
        queries, hits: prompt tokens looked up, and read from the store.
        nbytes: of the directory, as last seen. damaged: blocks that could not be used.
        write_errors, dropped, removed: writes that failed, blocks for which the disk was too slow, blocks removed.
    """

    queries: int = 0
    hits: int = 0
    nbytes: int = 0
    damaged: int = 0
    write_errors: int = 0
    dropped: int = 0
    removed: int = 0


class PrefixStore:
    """A directory of blocks for one model.

    Args:
        directory: made if need be, for this user alone. limit: bytes of all blocks, those of other models included.
        identity: everything that the numbers depend on beside what stands at the positions.
        factory: of the model's KV stores.
        say: called with what a user should know, each cause once; from another thread too.

    Raises:
        PrefixStoreError: the directory cannot be used.
    """

    def __init__(
        self, directory: str | Path, *, limit: int, identity: str, factory: KVFactory, say: Callable[[str], None]
    ) -> None:
        path = Path(directory).expanduser()
        _prepare(path)
        self.directory = os.fspath(path.resolve())
        self._windows = [section.window for section in factory.sections]
        self._sizes = [section.nbytes for section in factory.sections]
        self._say, self._warned = say, False
        whole = f"{identity}\n{factory.layout}\n{BLOCK}"
        self._root = hashlib.blake2b(whole.encode(), digest_size=NAME_BYTES).digest()
        self._queries = self._hits = self._damaged = 0
        self.writer = BlockWriter(Path(self.directory), limit=limit, sizes=self._sizes, say=say)
        self.reader = ThreadPoolExecutor(1, "prefix store")  # its thread begins with the first use

    def prompt(self, tokens: Sequence[int], contents: Sequence[ContentSpan]) -> StoredPrompt:
        """A prompt's place in the store."""
        names, hash = [], self._root
        for index in range(len(tokens) // BLOCK):
            key = block_key(tokens, contents, index)
            hash = hashlib.blake2b(hash + key, digest_size=NAME_BYTES).digest()
            names.append(StoredName(hash=hash, index=index))
        return StoredPrompt(self, names, (len(tokens) - 1) // BLOCK)

    def is_readable(self, name: StoredName) -> bool:
        """Whether a block is there."""
        return os.path.exists(name.path(self.directory))

    def is_kept(self, name: StoredName) -> bool:
        """Whether a block is there, or will be once the writer comes to it."""
        return name.hash in self.writer.pending or self.is_readable(name)

    def read(self, names: Sequence[StoredName], start: int, *, whole: bool) -> list[BlockData]:
        """Blocks ``start`` .. of a path, up to the first that is not there or damaged.

        Args:
            whole: read all sections; else what `KVStore.restore` of exactly these blocks needs is enough.
        """
        stop = start
        while stop < len(names) and self.is_readable(names[stop]):
            stop += 1
        while stop > start:
            blocks: list[BlockData] = []
            for name in names[start:stop]:
                wanted = [whole or name.index >= first_needed(window, stop) for window in self._windows]
                block = self._read_one(name, wanted)
                if block is None:
                    break
                blocks.append(block)
            else:
                return blocks
            stop = start + len(blocks)  # other sections are needed for a shorter path
        return []

    def _read_one(self, name: StoredName, wanted: Sequence[bool]) -> memoryview | None:
        path = name.path(self.directory)
        try:
            return read_block(path, name.hash, name.index, self._sizes, wanted)
        except FileNotFoundError:  # another process has removed it
            return None
        except (DamagedBlockError, OSError) as error:
            self._damaged += 1
            if not self._warned:
                self._warned = True
                cause = error.strerror if isinstance(error, OSError) else error
                self._say(f"a block of the prefix store cannot be used, {cause}: it is computed anew ({path})")
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None

    def count(self, queries: int, hits: int) -> None:
        """Count prompt tokens that were looked up and found."""
        self._queries += queries
        self._hits += hits

    def stats(self) -> StoreStats:
        """Counts since the start."""
        writer = self.writer
        return StoreStats(
            queries=self._queries,
            hits=self._hits,
            nbytes=writer.nbytes,
            damaged=self._damaged,
            write_errors=writer.errors,
            dropped=writer.dropped,
            removed=writer.removed,
        )

    def close(self) -> None:
        """Write what is queued, for `CLOSE_S` seconds at most; nothing is stored or read ahead afterwards."""
        self.reader.shutdown(wait=False, cancel_futures=True)
        self.writer.close(CLOSE_S)


class StoredPrompt:
    """A prompt's blocks in a store: those that are read when it begins, and those that it adds.

    Args:
        names: of its full blocks. usable: how many of them may be read; the last token is always computed.
    """

    def __init__(self, store: PrefixStore, names: list[StoredName], usable: int) -> None:
        self._store, self._names, self._usable = store, names, usable
        self._used_ns = time.time_ns()
        self._saved = 0
        self._ahead: tuple[int, Future[list[BlockData]]] | None = None

    def read_ahead(self, known: int) -> bool:
        """Have a thread read the blocks behind the first ``known`` ones, for `behind`; whether it has.

        Reading takes as long as the disk does, which sequences that run should not notice.
        """
        if self._ahead is None:
            if known >= self._usable or not self._store.is_readable(self._names[known]):
                return True
            names = self._names[: self._usable]
            self._ahead = known, self._store.reader.submit(self._store.read, names, known, whole=True)
        return self._ahead[1].done()

    def behind(self, known: Sequence[BlockData]) -> list[BlockData]:
        """Whole blocks behind ``known`` ones, which come from elsewhere and are stored if they are not yet."""
        for name, data in zip(self._names, known, strict=False):
            if not self._store.is_kept(name) and not self._store.writer.put(name, data, self._used_ns):
                break
        blocks = self._blocks(len(known))
        self._saved = len(known) + len(blocks)
        self._note(len(known), self._saved)
        return blocks

    def _blocks(self, start: int) -> list[BlockData]:
        """Blocks ``start`` .. that are stored, those that were read ahead included."""
        if self._ahead is not None:
            begin, reading = self._ahead
            self._ahead = None
            if begin <= start:
                return reading.result()[start - begin :]
        return self._store.read(self._names[: self._usable], start, whole=True)

    def fill(self, cache: KVStore, new_cache: Callable[[], KVStore]) -> KVStore:
        """The same store, or a new one that holds more of the prompt."""
        names = self._names[: self._usable]
        known = cache.length // BLOCK
        blocks: list[BlockData] = []
        if known < len(names) and self._store.is_readable(names[known]):
            blocks = self._store.read(names, 0, whole=False)
        self._note(known, max(known, len(blocks)))
        if len(blocks) <= known:
            return cache
        self._saved = len(blocks)
        made = new_cache()
        made.restore(blocks)
        return made

    def _note(self, known: int, found: int) -> None:
        """``known`` blocks were there already, and ``found`` are now."""
        self._store.count((len(self._names) - known) * BLOCK, (found - known) * BLOCK)
        self._store.writer.touch(self._names[:found], self._used_ns)

    def save(self, cache: KVStore) -> bool:
        """Store the blocks that became full; False when there is nothing more to come."""
        while self._saved < len(self._names) and (self._saved + 1) * BLOCK <= cache.length:
            name = self._names[self._saved]
            if not self._store.is_kept(name):
                if not cache.holds(self._saved * BLOCK):
                    return False  # what follows would hang in the air
                if not self._store.writer.put(name, cache.export(self._saved), self._used_ns):
                    return False
            self._saved += 1
        return self._saved < len(self._names)


def _prepare(path: Path) -> None:
    """Make the directory, or see that it is one of ours.

    Raises:
        PrefixStoreError: it is not, or cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise PrefixStoreError(f"{path} is a file, and a prefix store is a directory; name another one")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if not files.same_user(found) or files.others_write(found):
            raise PrefixStoreError(f"the prefix store {path} belongs to others or can be written by them; chmod 700 it")
        marker = path / MARKER
        if not marker.exists():
            if any(not entry.name.startswith(".") for entry in path.iterdir()):
                raise PrefixStoreError(f"{path} is not empty and no prefix store; name another directory")
            with replacing(marker, ".marker-") as file:
                file.write((json.dumps({"version": VERSION}) + "\n").encode())
        version = json.loads(marker.read_text("utf-8"))["version"]
    except OSError as error:
        raise PrefixStoreError(f"cannot use the prefix store {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PrefixStoreError(f"{path / MARKER} is damaged; remove {path} and its blocks are computed anew") from None
    if version != VERSION:
        raise PrefixStoreError(
            f"the prefix store {path} belongs to another version (format {version!r}, this one has {VERSION}); "
            "name another directory or remove it"
        )
