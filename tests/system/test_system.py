"""Locks, positioned reads, names and owners of files, directories, cores of other systems."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from geminate.cores import of_windows
from geminate.system import directories, files, locks, processor, windows_cores
from geminate.weights.cache import cache_directory
from support.cli import refused


def test_a_lock_keeps_others_out_and_ends_with_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT | files.OPEN, 0o600) for _ in range(2))
    assert locks.try_lock(first) and not locks.try_lock(second)
    os.close(first)
    assert locks.try_lock(second)
    os.close(second)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    text = (
        "import os, sys, time; from geminate.system import locks\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); print(locks.try_lock(fd), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", text, path], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"True\n"
    fd = os.open(path, os.O_RDWR | files.OPEN)
    assert not locks.try_lock(fd)
    process.kill()
    process.wait()
    assert locks.try_lock(fd)
    os.close(fd)


def test_reads_at_a_place(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(100)))
    fd = os.open(tmp_path / "f", os.O_RDONLY | files.OPEN)
    assert files.read_at(fd, 5, 90) == bytes(range(90, 95)) and files.read_at(fd, 50, 95) == bytes(range(95, 100))
    room = bytearray(10)
    assert files.read_into(fd, memoryview(room), 40) == 10 and room == bytes(range(40, 50))
    assert files.read_into(fd, memoryview(room), 96) == 4
    os.close(fd)


@pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX'")
def test_owners_and_modes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch(0o600)
    assert files.same_user(path.stat()) and not files.others_write(path.stat())
    path.chmod(0o620)
    assert files.others_write(path.stat())
    other = os.stat_result((0o100600, 0, 0, 1, os.getuid() + 1, 0, 0, 0, 0, 0))
    root = os.stat_result((0o100600, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    assert not files.same_user(other) and not files.same_user(other, or_root=True)
    assert files.same_user(root, or_root=True)


def test_a_renamed_file_stays_open(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=tmp_path, delete=False) as file:
        file.write(b"whole")
        file.flush()
        with files.renamed(file, tmp_path / "named") as named:
            named.seek(0)
            assert named.read() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


@pytest.mark.skipif(sys.platform != "linux", reason="XDG's directories are Linux'")
def test_directories_are_xdgs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINATE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert cache_directory() == directories.cache() == tmp_path / "cache" / "geminate"
    assert directories.data() == tmp_path / "data" / "geminate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "geminate"


def record(relationship: int, efficiency: int, groups: int = 1) -> bytes:
    body = struct.pack("<BB20xH", 1, efficiency, groups) + struct.pack("<QH6x", 3, 0) * groups
    return struct.pack("<II", relationship, 8 + len(body)) + body


def test_cores_of_windows() -> None:
    hybrid = b"".join([record(0, 1)] * 6 + [record(2, 9), record(0, 0, groups=2)] + [record(0, 0)] * 7)
    assert windows_cores.parse(hybrid) == (14, 6)
    assert of_windows(14, 6).why == "6 fast cores of 14 physical cores"
    alike = windows_cores.parse(record(0, 0) * 4)
    assert alike == (4, 4) and of_windows(*alike).count == 4
    assert windows_cores.parse(b"") == (0, 0) and of_windows(0, 0).count == (os.cpu_count() or 1)
    assert windows_cores.parse(hybrid[:50] + b"\0" * 20) == (1, 1), "a record without a size ends it"


def cpuinfo(root: Path, flags: str) -> Path:
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n", encoding="utf-8")
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
def test_a_processor_that_numpy_does_not_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    old, new = cpuinfo(tmp_path / "old", "sse2 ssse3"), cpuinfo(tmp_path / "new", "sse2 sse4_2")
    assert processor.lacks_sse42(old) and not processor.lacks_sse42(new) and not processor.lacks_sse42(tmp_path)
    monkeypatch.setattr(processor.importlib.metadata, "version", lambda name: "2.3.5")
    assert processor.why_no_numpy(old) is None
    monkeypatch.setattr(processor.importlib.metadata, "version", lambda name: "2.4.6")
    assert processor.why_no_numpy(new) is None and "SSE4.2" in str(processor.why_no_numpy(old))
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    assert processor.why_no_numpy(old) is None


def test_the_command_says_so_before_numpy_is_loaded() -> None:
    prelude = (
        "import sys; import geminate.system.processor as p; p.lacks_sse42 = lambda root: True\n"
        "p.importlib.metadata.version = lambda name: '2.4.0'; sys.modules['numpy'] = None"
    )
    refused("generate", "x", says="NumPy 2.4.0 needs SSE4.2", prelude=prelude)


def test_numpy_that_cannot_be_loaded() -> None:
    refused("generate", "x", says="NumPy cannot be loaded (", prelude="import sys; sys.modules['numpy'] = None")
