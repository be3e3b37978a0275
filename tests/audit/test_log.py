"""The writing side: crashes at any byte, full disks, rotation, one writer, nothing lost without a word."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from geminate.audit import log as writer
from geminate.audit.files import files_of
from geminate.audit.log import AuditLog
from geminate.audit.options import AuditOptions
from geminate.audit.verify import verify
from geminate.errors import AuditLogError, ParameterError
from support.audit_logs import lines_of, open_log, records_of, write_log

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.01)
    monkeypatch.setattr(writer, "LOOK_S", 0.0)


def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_log(path, 3)
    write_log(path, 2)
    report = verify(path)
    assert report.intact and report.requests == 5 and not report.gaps
    types = [(r["type"], r.get("why")) for r in records_of(path) if r["type"] != "request"]
    assert types == [("start", "new"), ("stop", None), ("start", "continued"), ("stop", None)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_crash_at_any_byte_of_the_last_lines(tmp_path: Path) -> None:
    """Cut the log off at every length of its last two lines; the next run goes on and says what happened."""
    path = tmp_path / "audit.log"
    lines = write_log(path, 4)
    text = b"".join(lines)
    for length in range(len(text) - len(lines[-1]) - len(lines[-2]) - 1, len(text)):
        path.write_bytes(text[:length])
        write_log(path, 1)
        report = verify(path)
        assert report.intact, (length, report.problems)
        assert [record["why"] for _, record in report.gaps] == [
            "torn" if (length != len(text) - 1 and text[length - 1] != 10 and text[length] != 10) else "crash"
        ] * (length != len(text) - 1), length


@pytest.mark.parametrize("length", [1, 10, 40, 200])
def test_a_crash_within_the_first_line(length: int, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    first = write_log(path, 0)[0]
    path.write_bytes(first[:length])
    write_log(path, 1)
    report = verify(path)
    assert report.intact and [record["why"] for _, record in report.gaps] == ["torn"]


def test_zeros_that_a_power_cut_leaves(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = write_log(path, 2)
    path.write_bytes(b"".join(lines[:-1]) + bytes(3000))
    write_log(path, 1)
    assert verify(path).intact and verify(path).gaps[0][1]["bytes"] == 3000


def test_an_edited_torn_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    text = b"".join(write_log(path, 2))
    path.write_bytes(text[:-30])
    write_log(path, 1)
    torn = text[:-30].splitlines()[-1]
    changed = path.read_bytes().replace(torn, torn.replace(b"stop", b"sto0"))
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    assert not verify(path).intact


@pytest.mark.parametrize("text", [b"some text\n", b"no line end", b'{"a": 1}\n', bytes(100)])
def test_a_file_that_is_no_log_is_left_alone(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_bytes(text)
    with pytest.raises(AuditLogError, match="is no audit log"):
        open_log(path)
    assert path.read_bytes() == text


def test_a_damaged_end_is_not_built_upon(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = write_log(path, 2)
    path.write_bytes(b"".join(lines).replace(b'"stop"', b'"stap"'))
    with pytest.raises(AuditLogError, match=r"last line .* is damaged .* audit verify"):
        open_log(path)


@pytest.mark.parametrize("place", ["missing/audit.log", "", "fifo"])
def test_places_where_there_can_be_none(place: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(AuditLogError, match=r"cannot open|no regular file"):
        open_log(tmp_path / place)


def test_one_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = open_log(path, audit_file_bytes=4096)
    code = (
        "import sys; from geminate.audit.log import AuditLog; from geminate.audit.options import AuditOptions\n"
        "AuditLog(sys.argv[1], AuditOptions(), say=print)"
    )
    for _ in range(2):  # the second time in another file
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert done.returncode == 1 and "another program writes to the audit log" in done.stderr
        for number in range(30):
            log.put(lambda number=number: {"type": "request", "id": f"{number}"})
        assert log.flush(PATIENCE_S)
    assert len(files_of(path)) > 1
    log.close()
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0


def test_a_writer_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from support.audit_logs import open_log\n"
        "log = open_log(Path(sys.argv[1]))\n"
        "for n in range(50): log.put(lambda n=n: {'type': 'request', 'id': str(n)})\n"
        "log.flush(20); os.kill(os.getpid(), 9)"
    )
    tests = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run([sys.executable, "-c", code, str(path), tests], capture_output=True)
    assert done.returncode == -9, done.stderr
    write_log(path, 1)
    report = verify(path)
    assert report.intact and report.requests == 51 and [r["why"] for _, r in report.gaps] == ["crash"]


class Disk:
    """Stands for ``os.write`` and ``os.fsync`` of the log's file: full for a while, or slow to take whole lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int = 1 << 30) -> None:
        self.full, self.most, self.tried, self.syncs = False, most, threading.Event(), 0
        self.write, self.fsync = os.write, os.fsync
        monkeypatch.setattr(writer.os, "write", self._write)
        monkeypatch.setattr(writer.os, "fsync", self._fsync)

    def _write(self, fd: int, data: bytes) -> int:
        if self.full:
            self.tried.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(fd, data[: self.most])

    def _fsync(self, fd: int) -> None:
        self.syncs += 1
        self.fsync(fd)


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    disk = Disk(monkeypatch, most=100)
    path = tmp_path / "audit.log"
    log = open_log(path, said.append)
    log.put(lambda: {"type": "request", "id": "before"})
    assert log.flush(PATIENCE_S) and log.failure is None
    disk.full = True
    for number in range(5):
        assert log.put(lambda number=number: {"type": "request", "id": f"during {number}"})
    assert disk.tried.wait(PATIENCE_S) and not log.flush(0.1)
    assert log.failure == "No space left on device"
    disk.full = False
    assert log.flush(PATIENCE_S)
    log.close()
    assert log.failure is None and log.lost == 0
    assert [text.split(": ")[-1] for text in said] == [
        "No space left on device", f"the audit log {path} can be written again"
    ]  # fmt: skip
    report = verify(path)
    assert report.intact and report.requests == 6 and not report.gaps


def test_what_finds_no_place_is_counted_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_BYTES", 3 * writer.LINE_BYTES)
    disk = Disk(monkeypatch)
    path = tmp_path / "audit.log"
    log = open_log(path)
    assert log.flush(PATIENCE_S)
    disk.full = True
    taken = [log.put(lambda number=number: {"type": "request", "id": f"{number}"}) for number in range(20)]
    assert taken[0] and not taken[-1] and log.full and log.lost == taken.count(False)
    disk.full = False
    assert log.flush(PATIENCE_S)
    log.put(lambda: {"type": "request", "id": "later"})
    assert log.close()
    report = verify(path)
    assert report.intact and report.requests == taken.count(True) + 1
    assert sum(record["lines"] for _, record in report.gaps) == log.lost
    assert records_of(path)[-1]["type"] == "stop"


def test_a_disk_that_stays_full_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    disk = Disk(monkeypatch)
    path = tmp_path / "audit.log"
    log = open_log(path, said.append)
    assert log.flush(PATIENCE_S)
    disk.full = True
    log.put(lambda: {"type": "request"})
    assert not log.close() and "could not be written" in said[-1]
    disk.full = False
    write_log(path, 1)
    report = verify(path)
    assert report.intact and [record["why"] for _, record in report.gaps] == ["crash"]


def test_a_file_size_limit_of_the_system(tmp_path: Path) -> None:
    """A real failure of the system, which takes a part of a line first."""
    path = tmp_path / "audit.log"
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from support.audit_logs import open_log\n"
        "log = open_log(Path(sys.argv[1]), print)\n"
        "for n in range(20): log.put(lambda n=n: {'type': 'request', 'id': str(n)})\n"
        "print(log.flush(1), log.failure); print(log.close(seconds=1))"
    )
    tests = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run([sys.executable, "-B", "-c", code, str(path), tests], capture_output=True, text=True)
    assert "File too large" in done.stdout and done.stdout.endswith("False\n"), done
    assert path.stat().st_size == 1000
    write_log(path, 1)
    report = verify(path)
    assert report.intact and [record["why"] for _, record in report.gaps] == ["torn"]


@pytest.mark.parametrize(("policy", "least", "most"), [("always", 4, 10), ("interval", 1, 2), ("never", 0, 0)])
def test_fsync(policy: str, least: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    log = open_log(tmp_path / "audit.log", audit_fsync=policy)
    for _ in range(3):
        log.put(lambda: {"type": "request"})
        assert log.flush(PATIENCE_S)
    log.close()
    assert least <= disk.syncs <= most


def test_rotation_keeps_the_chain_and_the_facts(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_log(path, 70, audit_file_bytes=4096)
    files = files_of(path)
    assert len(files) > 3 and files[-1] == path and files[0].name == f"audit.log.{records_of(files[0])[-1]['seq']:09d}"
    for file in files:
        first = records_of(file)[0]
        assert first["type"] == "start" and first["facts"] == {"version": "test"}
        assert file.stat().st_size < 4096 + 1024
    write_log(path, 1, audit_file_bytes=4096)
    assert verify(path).intact and verify(path).requests == 71


def test_a_file_that_grows_line_by_line_is_rotated_too(tmp_path: Path) -> None:
    log = open_log(tmp_path / "audit.log", audit_file_bytes=4096)
    for number in range(60):
        log.put(lambda number=number: {"type": "request", "id": f"{number}"})
        assert log.flush(PATIENCE_S)
    assert log.close() and len(files_of(log.path)) > 2 and verify(log.path).intact


def test_rotation_that_fails_goes_on_in_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    said: list[str] = []
    path = tmp_path / "audit.log"
    monkeypatch.setattr(writer.os, "replace", refused)
    log = open_log(path, said.append, audit_file_bytes=4096)
    for number in range(40):
        log.put(lambda number=number: {"type": "request", "id": f"{number}"})
    assert log.close() and any("cannot begin a new file" in text for text in said)
    monkeypatch.undo()
    assert verify(path).intact and verify(path).requests == 40


def test_a_crash_between_the_two_names_of_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_log(path, 3)
    os.link(path, tmp_path / "audit.log.000000001")
    assert verify(path).intact
    write_log(path, 1)
    report = verify(path)
    assert report.intact and report.requests == 4 and report.files == [str(path)]


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_log_that_is_taken_away_goes_on(how: str, tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "audit.log"
    log = open_log(path, said.append)
    log.put(lambda: {"type": "request", "id": "a"})
    assert log.flush(PATIENCE_S)
    if how == "moved":
        path.rename(tmp_path / "audit.log.000000001")
    else:
        path.unlink()
    log.put(lambda: {"type": "request", "id": "b"})
    assert log.close() and "moved or removed" in said[0]
    report = verify(path)
    assert report.intact == (how == "moved") and records_of(path)[0]["why"] == "moved"
    assert lines_of(path)[-1]


def test_an_empty_file_goes_on_behind_rotated_ones(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_log(path, 3)
    path.rename(tmp_path / "audit.log.000000001")
    write_log(path, 2)
    assert verify(path).intact and verify(path).requests == 5


def test_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = open_log(path, audit_file_bytes=20_000)

    def work(name: int) -> None:
        for number in range(100):
            assert log.put(lambda number=number: {"type": "request", "id": f"{name}.{number}"})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close() and not log.put(lambda: {"type": "request"})
    assert verify(path).intact and verify(path).requests == 500


def test_a_record_that_is_no_json_is_named_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "audit.log"
    log = open_log(path, said.append)
    log.put(lambda: {"type": "request", "n": float("nan")})
    log.put(lambda: {"type": "request"})
    assert log.close() and "could not be written: ValueError" in said[0]
    report = verify(path)
    assert report.intact and report.requests == 1 and [record["lines"] for _, record in report.gaps] == [1]


def test_a_log_that_never_began_writes_nothing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a", AuditOptions(), say=print)
    assert log.close() and (tmp_path / "a").read_bytes() == b""
    write_log(tmp_path / "a", 1)
    assert verify(tmp_path / "a").intact


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"audit_content": "all"}, "audit_content must be one of hashes, ids, requests"),
        ({"audit_fsync": "daily"}, "audit_fsync must be one of"),
        ({"audit_failure": "ignore"}, "audit_failure must be one of"),
        ({"audit_file_bytes": 10}, "at least 4096"),
        ({"audit_file_bytes": "much"}, "a size such as"),
        ({"audit_log": " "}, "must not be empty"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        AuditOptions(**options)
    assert AuditOptions(audit_file_bytes="1MiB").file_bytes == 1 << 20


def test_times_are_utc_with_milliseconds() -> None:
    assert writer.now(0.25) == "1970-01-01T00:00:00.250Z"
    assert json.dumps(writer.now())[-2] == "Z"
