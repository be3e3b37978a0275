"""Blocks on disk: found by content, never used when damaged, bounded, and safe among processes that come and go."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from geminate.errors import PrefixStoreError
from geminate.kv import block_writer
from geminate.kv.block_file import header_bytes
from geminate.kv.prefix_store import MARKER, PrefixStore, StoredPrompt
from geminate.kv.prefix_tree import ContentSpan
from geminate.kv.store import BLOCK, BlockData, KVFactory, KVStore, Section

WINDOW, FULL = 300, 500  # bytes of a sliding and of a full slot in a block
SECTIONS = (Section(nbytes=WINDOW, window=100), Section(nbytes=FULL, window=0))
FILE = header_bytes(2) + WINDOW + FULL


class Factory:
    """As much of a `KVFactory` as a store looks at."""

    sections = SECTIONS
    layout = "bytes of a test"


class Rows:
    """A KV store whose blocks are random bytes that only the tokens decide."""

    def __init__(self, tokens: Sequence[int] = (), held_from: int = 0) -> None:
        self.tokens, self.held_from = list(tokens), held_from
        self.length = len(self.tokens)
        self.restored: list[bytes] | None = None

    def holds(self, start: int) -> bool:
        return start >= self.held_from

    def export(self, block: int) -> bytes:
        return block_of(self.tokens, block)

    def restore(self, blocks: Sequence[BlockData]) -> None:
        self.restored, self.length = [bytes(block) for block in blocks], len(blocks) * BLOCK


def block_of(tokens: Sequence[int], block: int) -> bytes:
    return random.Random(repr(list(tokens[: (block + 1) * BLOCK]))).randbytes(WINDOW + FULL)


def opened(path: Path, said: list[str] | None = None, *, limit: int = 1 << 30, identity: str = "m") -> PrefixStore:
    say = (lambda text: None) if said is None else said.append
    return PrefixStore(path, limit=limit, identity=identity, factory=cast(KVFactory, Factory()), say=say)


def keep(store: PrefixStore, tokens: list[int], contents: tuple[ContentSpan, ...] = ()) -> StoredPrompt:
    """Store a prompt whole, as an engine does pass by pass."""
    prompt = store.prompt(tokens, contents)
    for length in (*range(70, len(tokens), 70), len(tokens)):
        prompt.save(cast(KVStore, Rows(tokens[:length])))
    assert store.writer.flush(10)
    return prompt


def found(store: PrefixStore, tokens: list[int], contents: tuple[ContentSpan, ...] = ()) -> int:
    """Blocks that a prompt is given; those that it needs are right."""
    made = store.prompt(tokens, contents).fill(cast(KVStore, Rows()), lambda: cast(KVStore, Rows()))
    blocks = cast(Rows, made).restored or []
    assert made.length == len(blocks) * BLOCK < len(tokens)
    for at, data in enumerate(blocks):
        expected = block_of(tokens, at)
        assert data[WINDOW:] == expected[WINDOW:]
        if (at + 1) * BLOCK > made.length - 100 + 1:
            assert data == expected
    return len(blocks)


def files(path: Path) -> list[Path]:
    """Blocks by their index."""
    return sorted(path.glob("*/*.kv"), key=lambda file: int(file.stem.rpartition("-")[2]))


def test_a_prompt_is_found_by_another_process(tmp_path: Path) -> None:
    tokens = list(range(1000))
    keep(opened(tmp_path / "s"), tokens)
    assert len(files(tmp_path / "s")) == 15
    store = opened(tmp_path / "s")
    assert found(store, tokens) == 15
    assert found(store, [*tokens[:500], 9, *tokens[501:]]) == 7, "up to the block that differs"
    assert found(store, tokens[:128]) == 1, "the last token is always computed"
    assert found(store, [7, *tokens[1:]]) == 0
    stats = store.stats()
    assert (stats.hits, stats.damaged) == ((15 + 7 + 1) * BLOCK, 0) and stats.queries > stats.hits
    assert store.writer.flush(10) and store.stats().nbytes == 15 * FILE
    assert {file.stat().st_mode & 0o777 for file in files(tmp_path / "s")} == {0o600}
    assert {at.stat().st_mode & 0o777 for at in (tmp_path / "s", *(f.parent for f in files(tmp_path / "s")))} == {0o700}


def test_other_models_and_contents_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = list(range(300))
    cat, dog = ((ContentSpan(start=70, stop=90, digest=name),) for name in (b"cat", b"dog"))
    keep(opened(tmp_path), tokens, cat)
    assert found(opened(tmp_path), tokens, cat) == 4
    assert found(opened(tmp_path), tokens, dog) == 1
    assert found(opened(tmp_path), tokens) == 1
    assert found(opened(tmp_path, identity="another"), tokens, cat) == 0
    monkeypatch.setattr(Factory, "layout", "another")
    assert found(opened(tmp_path), tokens, cat) == 0


def test_whole_blocks_continue_what_is_known(tmp_path: Path) -> None:
    tokens = list(range(700))
    store = opened(tmp_path)
    keep(store, tokens)
    known = [block_of(tokens, at) for at in range(3)]
    more = store.prompt(tokens, ()).behind(known)
    assert [bytes(block) for block in more] == [block_of(tokens, at) for at in range(3, 10)]
    for file in files(tmp_path)[:3]:
        file.unlink()
    assert found(store, tokens) == 0
    store.prompt(tokens, ()).behind(known)
    assert store.writer.flush(10) and found(store, tokens) == 10, "known blocks fill the hole"


def test_no_block_hangs_in_the_air(tmp_path: Path) -> None:
    tokens = list(range(400))
    store = opened(tmp_path)
    prompt = store.prompt(tokens, ())
    assert not prompt.save(cast(KVStore, Rows(tokens, held_from=200))), "rows of the first block are lost"
    assert store.writer.flush(10) and not files(tmp_path)


def flip(file: Path, at: int, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= bit
    file.write_bytes(data)


def test_no_flipped_byte_is_ever_used(tmp_path: Path) -> None:
    """Every byte of the header and a sample of the others, in a block whose sections are all needed."""
    tokens = list(range(200))
    said: list[str] = []
    store = opened(tmp_path, said)
    places = [*range(header_bytes(2)), *random.Random(1).sample(range(header_bytes(2), FILE), 120), FILE - 1]
    for number, at in enumerate(places):
        keep(store, tokens)
        assert found(store, tokens) == 3
        flip(files(tmp_path)[2], at, 1 << number % 8)
        assert found(store, tokens) == 2, f"byte {at}"
        assert len(files(tmp_path)) == 2, "a damaged block is removed, so that it is written anew"
    assert store.stats().damaged == len(places)
    assert len(said) == 1 and "\n" not in said[0] and "computed anew" in said[0]


def test_sections_that_nobody_needs_are_not_read(tmp_path: Path) -> None:
    tokens = list(range(700))
    keep(opened(tmp_path), tokens)
    flip(files(tmp_path)[0], header_bytes(2) + 5)  # the sliding slot of the first block
    store = opened(tmp_path)
    assert found(store, tokens) == 10 and store.stats().damaged == 0
    assert found(store, tokens[:70]) == 0, "here it is needed"


def test_damage_in_the_middle_leaves_what_is_before(tmp_path: Path) -> None:
    """Behind a shorter path other sections are needed; they are read and checked then."""
    tokens = list(range(700))
    keep(opened(tmp_path), tokens)
    flip(files(tmp_path)[6], FILE - 3)
    flip(files(tmp_path)[5], header_bytes(2) + 1)
    assert found(opened(tmp_path), tokens) == 5


@pytest.mark.parametrize("how", ["short", "long", "empty", "link", "pipe", "directory", "another block", "writable"])
def test_odd_files_are_not_used(tmp_path: Path, how: str) -> None:
    tokens = list(range(300))
    path = tmp_path / "s"
    keep(opened(path), tokens)
    first, second = files(path)[1:3]
    data = second.read_bytes()
    if how in ("short", "long", "empty"):
        second.write_bytes({"short": data[:-1], "long": data + b"x", "empty": b""}[how])
    elif how == "another block":
        second.write_bytes(first.read_bytes())
    elif how == "writable":
        second.chmod(0o622)
    else:
        second.unlink()
        if how == "link":
            (tmp_path / "other").write_bytes(data)
            second.symlink_to(tmp_path / "other")
        elif how == "pipe":
            os.mkfifo(second)
        else:
            second.mkdir()
    store = opened(path)
    assert found(store, tokens) == 2 and store.stats().damaged == 1
    keep(store, tokens)
    assert found(store, tokens) == (2 if how == "directory" else 4)


def test_the_least_recently_used_goes_first_and_tips_before_roots(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=20 * FILE)
    a, b, c = ([name] * (8 * BLOCK + 1) for name in (1, 2, 3))
    keep(store, a)
    keep(store, b)
    assert found(store, a) == 8  # used again
    assert store.writer.flush(10)
    keep(store, c)
    assert len(files(tmp_path)) <= 20 and store.stats().nbytes <= 20 * FILE
    assert (found(store, a), found(store, c)) == (8, 8)
    assert 0 < found(store, b) < 8, "b lost its end, not its beginning"
    assert store.stats().removed == 8 - found(store, b)


def test_the_bound_counts_what_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "RESCAN", 4)
    store, other = opened(tmp_path, limit=30 * FILE), opened(tmp_path, limit=30 * FILE, identity="other")
    for name in range(12):
        keep(store if name % 2 else other, [name] * (8 * BLOCK + 1))
        assert len(files(tmp_path)) <= 30 + 2 * 4
    small: list[str] = []
    tiny = opened(tmp_path / "tiny", small, limit=FILE - 1)
    keep(tiny, list(range(300)))
    assert not files(tmp_path / "tiny") and len(small) == 1 and "--prefix-store-bytes" in small[0]


def test_what_comes_too_fast_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs: nobody waits for it, and later prompts are stored again."""
    go = threading.Event()
    real = block_writer.BlockWriter._write
    monkeypatch.setattr(block_writer, "QUEUE_BYTES", 10 * (WINDOW + FULL))
    monkeypatch.setattr(block_writer.BlockWriter, "_write", lambda self, block: (go.wait(10), real(self, block)))
    store = opened(tmp_path)
    tokens = list(range(2000))
    began = time.monotonic()
    assert not store.prompt(tokens, ()).save(cast(KVStore, Rows(tokens)))
    assert time.monotonic() - began < 5 and store.stats().dropped == 1
    go.set()
    assert store.writer.flush(10) and 10 <= len(files(tmp_path)) <= 12
    keep(store, tokens)
    keep(store, tokens)
    keep(store, tokens)
    assert found(store, tokens) == 31


def test_errors_of_the_disk_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    store = opened(tmp_path, said)
    tokens = list(range(300))
    keep(store, tokens)

    def full(file: int, data: BlockData) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_writer, "_write_all", full)
    keep(store, [5] * 300)
    keep(store, [6] * 300)
    assert len(said) == 1 and "No space left on device" in said[0] and "answers do not need it" in said[0]
    assert store.stats().write_errors >= 1 and not list(tmp_path.glob("*/.writing-*"))
    assert found(store, tokens) == 4, "what is there is still read"
    monkeypatch.undo()
    assert store.writer._rests_until > time.monotonic()
    store.writer._rests_until = 0.0
    keep(store, [5] * 300)
    assert found(store, [5] * 300) == 4


def test_directories_that_are_no_store_are_refused(tmp_path: Path) -> None:
    def refused(path: Path, why: str) -> None:
        with pytest.raises(PrefixStoreError, match=why) as error:
            opened(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file, and a prefix store is a directory")
    refused(tmp_path / "file" / "below", "Not a directory")
    refused(tmp_path, "not empty")
    odd = tmp_path / "odd"
    opened(odd)
    for text, why in (('{"version": 2}', "another version"), ("{", "damaged"), ("[]", "damaged"), ("{}", "damaged")):
        (odd / MARKER).write_text(text)
        refused(odd, why)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    refused(shared, "chmod 700")


def test_abandoned_files_are_removed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    keep(store, list(range(300)))
    folder = files(tmp_path)[0].parent
    for name, age in (("old", 2 * block_writer.ABANDONED_S), ("new", 5)):
        file = folder / f"{block_writer.TEMPORARY}{name}"
        file.write_bytes(b"x")
        os.utime(file, (time.time() - age, time.time() - age))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.kv").write_text("kept")
    other = opened(tmp_path)
    keep(other, [4] * 200)
    assert not (folder / f"{block_writer.TEMPORARY}old").exists()
    assert (folder / f"{block_writer.TEMPORARY}new").exists() and (tmp_path / "notes" / "mine.kv").exists()


CHILD = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from kv.test_prefix_store import keep, opened, FILE
store = opened(Path(sys.argv[2]), limit=int(sys.argv[4]))
print("ready", flush=True)
for name in range(int(sys.argv[3])):
    keep(store, [name] * 500)
"""


def child(path: Path, prompts: int, limit: int) -> subprocess.Popen[bytes]:
    tests = Path(__file__).resolve().parents[1]
    args = [sys.executable, "-c", CHILD, str(tests), str(path), str(prompts), str(limit)]
    return subprocess.Popen(args, stdout=subprocess.PIPE)


def ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def test_a_killed_writer_leaves_only_whole_blocks(tmp_path: Path) -> None:
    for delay in (0.02, 0.1, 0.23):
        process = child(tmp_path, 10**6, 1 << 30)
        ready(process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    store = opened(tmp_path)
    written = [name for name in range(10**4) if found(store, [name] * 500)]
    assert written and store.stats().damaged == 0
    keep(store, [written[-1]] * 500)
    assert found(store, [written[-1]] * 500) == 7


def test_two_processes_share_a_bounded_store(tmp_path: Path) -> None:
    limit = 40 * FILE
    both = [child(tmp_path, 60, limit) for _ in range(2)]
    for process in both:
        ready(process)
    for process in both:
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()
    store = opened(tmp_path, limit=limit)
    assert any(found(store, [name] * 500) == 7 for name in range(60))
    assert store.stats().damaged == 0 and not list(tmp_path.glob("*/.writing-*"))
    keep(store, [99] * 500)
    store.writer._since_scan = block_writer.RESCAN
    keep(store, [98] * 500)
    assert len(files(tmp_path)) <= 40


def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    store = opened(tmp_path)
    tokens = list(range(1000))
    store.prompt(tokens, ()).save(cast(KVStore, Rows(tokens)))
    store.close()
    assert len(files(tmp_path)) == 15
    assert not store.writer.put(cast(Any, store.prompt(tokens, ())._names[0]), b"", 0), "nothing is stored afterwards"
