"""A file is there whole or not at all, and only files are replaced."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from geminate.replacing import remove_abandoned, replacing
from geminate.system import locks


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path, ".a-") as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]
    with replacing(path, ".a-") as file:
        file.write(b"new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_only_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "link", "directory"):
        with pytest.raises(OSError) as refused, replacing(tmp_path / name, ".a-"):
            pass
        assert refused.value.filename == tmp_path / name
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "none" / "a", ".a-"):
        pass
    assert missing.value.filename == tmp_path / "none" / "a", "not the temporary file"
    assert sorted(os.listdir(tmp_path)) == ["directory", "link", "pipe"]


def test_who_may_read(tmp_path: Path) -> None:
    for public, mode in ((False, 0o600), (True, 0o644)):
        old = os.umask(0o022)
        try:
            with replacing(tmp_path / "a", ".a-", public=public, durable=True) as file:
                file.write(b"x")
        finally:
            os.umask(old)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_only_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    ages = {".a-young": 10, ".a-left": 120, ".a-held": 120, ".a-ancient": 3 * 86400, ".b-other": 120}
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"x")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    (tmp_path / ".a-link").symlink_to(tmp_path / ".b-other")
    with (tmp_path / ".a-held").open("rb") as file:
        held = locks.try_lock(file.fileno())
        remove_abandoned(tmp_path, ".a-")
    assert sorted(os.listdir(tmp_path)) == [
        ".a-held",
        ".a-link",
        *([] if held else [".a-left"]),
        ".a-young",
        ".b-other",
    ]
    with replacing(tmp_path / "c", ".c-") as file:
        [mine] = [path for path in tmp_path.iterdir() if path.name.startswith(".c-")]
        then = time.time() - 3600
        os.utime(mine, (then, then))
        remove_abandoned(tmp_path, ".c-")
        assert mine.exists() or not held, "it is being written"
    remove_abandoned(tmp_path / "none", ".a-")
