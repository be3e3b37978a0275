"""JSON objects in files."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from geminate.errors import ConfigError, GeminateError, kind_of

MAX_JSON = 64 << 20
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024


def check_regular(path: Path, error: type[GeminateError] = ConfigError, most: int | None = None) -> int:
    """The size of a file, which must be a regular one: reading a pipe waits, and a device may never end.

    Git LFS pointers are refused as well: repositories cloned without LFS have them in place of their large files.

    Args:
        most: bytes that it may have; None: any number.

    Raises:
        GeminateError: of the given type, naming the file. OSError: there is none, or it cannot be looked at.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise error(f"cannot read {path}: it is no regular file")
    if most is not None and found.st_size > most:
        raise error(f"{path} has {found.st_size:,} bytes, of which {most:,} are allowed; download it again")
    if found.st_size <= MAX_POINTER:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise error(
                    f"{path} is a Git LFS pointer, not the file itself: run 'git lfs pull' where it was cloned, or "
                    "download the file"
                )
    return found.st_size


def read_object(path: Path, error: type[GeminateError] = ConfigError) -> dict[str, Any] | None:
    """The JSON object in a file; None without the file.

    Raises:
        GeminateError: of the given type, if the file cannot be read or holds something else.
    """
    try:
        check_regular(path, error, MAX_JSON)
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise error(f"cannot read {path}: {str(cause)[:300]}") from None
    return parsed_object(raw, path, error)


def parsed_object(raw: bytes, called: str | Path, error: type[GeminateError] = ConfigError) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        called: the file, as messages name it.

    Raises:
        GeminateError: of the given type, if it holds something else.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as cause:
        raise error(f"cannot read {called}: {str(cause)[:300]}") from None
    if not isinstance(value, dict):
        raise error(f"{called} must hold a JSON object, not {kind_of(value)}")
    return value
