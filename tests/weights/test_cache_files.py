"""The cache of packed weights among several processes, killed ones, full and read-only disks, and within its limit."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from geminate import LLM
from geminate.errors import ParameterError, StorageError
from geminate.families.registry import open_model
from geminate.system import locks
from geminate.system.locks import turn
from geminate.weights import cache
from geminate.weights.opening import open_weights
from geminate.weights.store import WeightStore
from support.fabricate import make_target

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="there open files cannot be removed")


def opened(model: Path, folder: Path, said: list[str] | None = None, weights: Any = "int8") -> WeightStore:
    source = open_model(model)
    say = None if said is None else said.append
    return open_weights(source, source.target_config(), weights, cache_dir=folder, on_message=say)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


RUN = """
import os, sys, time
from pathlib import Path
from geminate.families.registry import open_model
from geminate.weights.opening import open_weights
model, folder, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
source = open_model(model)
seen = 0
def progress(name, done, total):
    global seen
    seen += 1
    if mode == "kill" and seen == 20:
        os.kill(os.getpid(), 9)
    if mode == "slow" and name != "waiting":
        time.sleep(0.01)
store = open_weights(source, source.target_config(), "int8", cache_dir=folder, progress=progress,
                     on_message=lambda text: print(text, flush=True))
print("from cache" if store.from_cache else "packed", store.path is not None, flush=True)
"""


def started(model: Path, folder: Path, mode: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(model), str(folder), mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **more,
    )  # fmt: skip


@needs_locks
def test_two_processes_pack_a_model_once(models: dict[str, Path], tmp_path: Path) -> None:
    both = [started(models["26B-A4B"], tmp_path, "slow") for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].strip().splitlines()[-1] for process in both)
    assert said == ["from cache True", "packed True"]
    assert [name.rpartition(".")[2] for name in names(tmp_path)] == ["geminate"], (
        "neither lock nor temporary file stays"
    )


@needs_locks
def test_waiting_says_so_and_can_be_ended(models: dict[str, Path], tmp_path: Path) -> None:
    first = opened(models["E2B"], tmp_path)
    assert first.path is not None
    kept = first.path.read_bytes()
    first.path.unlink()
    said: list[str] = []
    found: list[WeightStore] = []
    with turn(first.path.with_suffix(".lock"), lambda: None) as waited:
        assert not waited
        thread = threading.Thread(target=lambda: found.append(opened(models["E2B"], tmp_path, said)))
        thread.start()
        until = time.monotonic() + 20
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        assert "another process packs the weights" in said[0] and "waiting for it" in said[0]
        first.path.write_bytes(kept)
        first.path.chmod(0o600)
        source = open_model(models["E2B"])
        first.path.rename(first.path.with_suffix(".later"))

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            open_weights(source, source.target_config(), "int8", cache_dir=tmp_path, progress=stop)
        first.path.with_suffix(".later").rename(first.path)
    thread.join(20)
    assert found[0].from_cache and len(said) == 1


@needs_locks
def test_a_killed_run_leaves_nothing_that_is_used(models: dict[str, Path], tmp_path: Path) -> None:
    killed = started(models["E2B"], tmp_path, "kill")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name.startswith(cache.TEMPORARY)]
    assert len(left) == 1 and not list(tmp_path.glob("*.geminate"))
    opened(models["31B"], tmp_path)
    assert left[0] in names(tmp_path), "young: its lock may not have been taken yet"
    then = time.time() - 120
    os.utime(tmp_path / left[0], (then, then))
    with (tmp_path / left[0]).open("rb") as file:  # as if it were still being written
        assert locks.try_lock(file.fileno())
        opened(models["12B"], tmp_path)
        assert left[0] in names(tmp_path)
    said: list[str] = []
    assert not opened(models["E2B"], tmp_path, said).from_cache
    assert left[0] not in names(tmp_path)
    assert all(name.endswith(".geminate") for name in names(tmp_path)), "the lock of the killed run is gone too"
    assert opened(models["E2B"], tmp_path).from_cache


LIMITED = """
import resource, sys, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
"""


def test_a_full_disk_is_one_message_and_no_file(models: dict[str, Path], tmp_path: Path) -> None:
    """With a limit on the size of files, which the system reports much like a full disk."""
    folder = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + RUN, str(models["26B-A4B"]), str(folder), ""],
        capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and "StorageError" in done.stderr and "GEMINATE_CACHE" in done.stderr
    assert done.stdout.count("running without the cache") == 1
    assert names(folder) == [] and names(tmp_path) == ["cache"]


@pytest.mark.parametrize("filled", [True, False])
def test_a_read_only_cache(
    filled: bool, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is used; what is not is packed without being kept."""
    folder = tmp_path / "cache"
    folder.mkdir()
    if filled:
        opened(models["E2B"], folder)
    before, real = names(folder), os.open

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def reading(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(folder)):
            refused()
        return real(path, flags, *rest, **more)

    for what in ("tempfile.mkstemp", "os.utime", "os.mkdir", "os.unlink"):
        monkeypatch.setattr(what, refused)
    monkeypatch.setattr(os, "open", reading)
    said: list[str] = []
    store = opened(models["E2B"], folder, said)
    monkeypatch.undo()
    assert store.from_cache == filled and (store.path is not None) == filled and names(folder) == before
    if not filled:
        assert said == [f"cannot keep packed weights in {folder} (Read-only file system); running without the cache"]


def used(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_the_limit_takes_what_was_not_used_for_longest(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days, size in enumerate(("E2B", "E4B", "31B"), 2):
        path = opened(models[size], tmp_path).path
        assert path is not None
        path.with_suffix(cache.COSTS).write_text("{}")
        used(path, days)
    found = cache.entries(tmp_path)
    assert [Path(kept.model).name for kept in found] == ["E2B", "E4B", "31B"], "last used first"
    assert [(kept.part, kept.weights, kept.usable, kept.orphaned) for kept in found] == [
        ("target", "int8", True, False)
    ] * 3
    # Opening is a use; 31B is now younger than E4B.
    opened(models["31B"], tmp_path)
    further = opened(models["12B"], tmp_path / "other").path
    assert further is not None
    left = sum(kept.nbytes for kept in found if Path(kept.model).name != "E4B") + further.stat().st_size
    monkeypatch.setenv("GEMINATE_CACHE_LIMIT", str(left + 100))
    said: list[str] = []
    opened(models["12B"], tmp_path, said)
    assert [Path(kept.model).name for kept in cache.entries(tmp_path)] == ["12B", "31B", "E2B"]
    assert any(
        "removed the packed weights of" in line and "E4B" in line and "GEMINATE_CACHE_LIMIT" in line for line in said
    )
    assert not list(tmp_path.glob("E4B*")), "nor what was measured for it"


@needs_locks
def test_what_is_in_use_stays(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(models["E2B"], tmp_path)
    assert store.path is not None
    used(store.path, 9)
    [kept] = cache.entries(tmp_path)
    assert kept.in_use
    with pytest.raises(StorageError, match=r"is in use; stop the process that runs .*E2B first"):
        cache.remove(kept)
    monkeypatch.setenv("GEMINATE_CACHE_LIMIT", "1")
    opened(models["E4B"], tmp_path)
    assert len(cache.entries(tmp_path)) == 2, "neither the one in use nor the one that was just packed"
    del store
    opened(models["12B"], tmp_path)
    assert [Path(one.model).name for one in cache.entries(tmp_path)] == ["12B"]
    [kept] = cache.entries(tmp_path)
    assert cache.remove(kept) == kept.nbytes and not names(tmp_path)


def test_limits_that_are_none(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_limit() == 64 << 30
    monkeypatch.setenv("GEMINATE_CACHE_LIMIT", "none")
    assert cache.cache_limit() is None
    monkeypatch.setenv("GEMINATE_CACHE_LIMIT", "lots")
    with pytest.raises(ParameterError, match="GEMINATE_CACHE_LIMIT must be a size"):
        opened(models["E2B"], tmp_path)
    assert not names(tmp_path)


def version_3(path: Path) -> None:
    """A file as earlier versions wrote it: no first page, checksums in the header."""
    text = json.dumps({"version": 3, "fingerprint": {}, "arrays": {}, "meta": {}, "data_bytes": 4096}).encode()
    path.write_bytes(b"\x01" * 4096 + text + struct.pack("<II", len(text), zlib.crc32(text)) + b"GEMINATE")
    path.chmod(0o600)


def test_files_of_earlier_versions_are_packed_again_or_removed(models: dict[str, Path], tmp_path: Path) -> None:
    path = opened(models["E2B"], tmp_path).path
    assert path is not None
    other = tmp_path / "gone-01234567-int8.geminate"
    for file in (path, other):
        version_3(file)
    other.with_suffix(cache.COSTS).write_text("{}")
    assert [kept.usable for kept in cache.entries(tmp_path)] == [False, False]
    said: list[str] = []
    assert not opened(models["E2B"], tmp_path, said).from_cache
    assert (
        said[0] == "the packed cache is stale: version 3 of the format, this program has 4; packing the weights again"
    )
    assert "removed packed weights of earlier versions" in said[1]
    assert names(tmp_path) == [path.name]


def test_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    model = make_target("E2B", tmp_path / "m")
    opened(model, tmp_path / "cache")
    model.rename(tmp_path / "elsewhere")
    [kept] = cache.entries(tmp_path / "cache")
    assert kept.orphaned and kept.model == str(model)


def test_a_file_of_the_cache_is_no_model(models: dict[str, Path], tmp_path: Path) -> None:
    path = opened(models["E2B"], tmp_path).path
    with pytest.raises(Exception, match="a file of the cache, which belongs to a checkpoint"):
        LLM(path, threads=1)
