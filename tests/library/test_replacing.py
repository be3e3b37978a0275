"""A file is there whole or not at all, and only files are replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geminate.replacing import replacing


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
