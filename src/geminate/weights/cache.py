"""The cache of packed weights: a directory of packed files, each belonging to a checkpoint, within a size limit.

A file's modification time is its last use. A file that is mapped has a shared lock, and nothing removes it. Writing
takes a lock beside it, so that two processes that need the same file pack it once.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from geminate.checkpoint.packed_file import SUFFIX, VERSION, PackedFile, packed_version
from geminate.errors import StorageError, WeightsError
from geminate.replacing import remove_abandoned, replacing
from geminate.sizes import parse_size
from geminate.system import directories, locks
from geminate.system.files import anonymous_file

Message = Callable[[str], None]
DEFAULT_LIMIT = 64 << 30
LIMIT_VARIABLE = "GEMINATE_CACHE_LIMIT"
TEMPORARY = ".packing-"
COSTS = ".costs.json"
CALLED = "the packed cache"  # a file of it, in messages


def cache_directory(chosen: Path | None = None) -> Path:
    """``chosen``, else GEMINATE_CACHE, else the user's cache directory."""
    if chosen is not None:
        return chosen
    if os.environ.get("GEMINATE_CACHE"):
        return Path(os.environ["GEMINATE_CACHE"]).expanduser()
    return directories.cache()


def cache_limit() -> int | None:
    """Bytes that the packed files may have together: GEMINATE_CACHE_LIMIT, a size such as 100GiB; None for ``none``.

    Raises:
        ParameterError: not a size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    return None if text.lower() == "none" else parse_size(LIMIT_VARIABLE, text)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A packed file of the cache.

    Attributes:
        path: of the file. nbytes: of it, with what was measured for it.
        model: the checkpoint that it was packed from, an absolute path; "" where that is not known.
        part: ``target`` or ``drafter``. weights: the format that was asked for.
        used: seconds since the epoch of its last use. in_use: whether a process has it open.
        usable: whether this version can read it. orphaned: whether the checkpoint is gone.
    """

    path: Path
    nbytes: int
    model: str
    part: str
    weights: str
    used: float
    in_use: bool
    usable: bool
    orphaned: bool


def entries(directory: Path | None = None) -> list[Kept]:
    """The packed files of a cache, last used first; files that vanish meanwhile are left out."""
    found = []
    with contextlib.suppress(OSError):
        for path in cache_directory(directory).glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                found.append(_entry(path))
    return sorted(found, key=lambda kept: -kept.used)


def _entry(path: Path) -> Kept:
    stat = path.stat()
    about: dict[str, Any] = {}
    part, usable = "", False
    if packed_version(path) == VERSION:
        with contextlib.suppress(WeightsError):
            packed = PackedFile.open(path)
            part = next(iter(packed.parts))
            about, usable = dict(packed.parts[part].about), True
            del packed  # its lock would count as use
    origin = about.get("origin")
    model = str(origin.get("path") or "") if isinstance(origin, dict) else ""
    costs = path.with_suffix(COSTS)
    return Kept(
        path=path,
        nbytes=stat.st_size + (costs.stat().st_size if costs.is_file() else 0),
        model=model,
        part=part,
        weights=str(about.get("weights") or ""),
        used=stat.st_mtime,
        in_use=locks.is_locked(path),
        usable=usable,
        orphaned=bool(model) and not os.path.exists(model),
    )


def remove(kept: Kept) -> int:
    """Remove a packed file and what was measured for it; the bytes that this frees.

    Raises:
        StorageError: it is in use, or cannot be removed.
    """
    if locks.is_locked(kept.path):
        raise StorageError(f"{kept.path} is in use; stop the process that runs {kept.model or 'it'} first")
    try:
        kept.path.unlink(missing_ok=True)
        kept.path.with_suffix(COSTS).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {kept.path}: {error.strerror}") from None
    return kept.nbytes


def make_room(keep: Path, say: Message) -> None:
    """Remove files of earlier versions, and then those that were not used for longest, until the limit is kept.

    Args:
        keep: stays, whatever its size; so does what is in use.
    """
    limit = cache_limit()
    found = entries(keep.parent)
    old = [kept for kept in found if _is_old(kept)]
    freed = sum(_removed(kept) for kept in old)
    if freed:
        say(f"removed packed weights of earlier versions from {keep.parent} ({freed / 1e9:.2f} GB)")
    left = [kept for kept in found if kept not in old]
    total = sum(kept.nbytes for kept in left)
    for kept in reversed(left):
        if limit is None or total <= limit:
            break
        if kept.path != keep and (size := _removed(kept)):
            total -= size
            day = time.strftime("%Y-%m-%d", time.localtime(kept.used))
            say(
                f"removed the packed weights of {kept.model or kept.path.name} ({size / 1e9:.2f} GB, last used on "
                f"{day}): the cache is limited to {limit / (1 << 30):g} GiB ({LIMIT_VARIABLE})"
            )


def _is_old(kept: Kept) -> bool:
    with contextlib.suppress(OSError):
        version = packed_version(kept.path)
        return version is not None and version < VERSION
    return False


def _removed(kept: Kept) -> int:
    try:
        return remove(kept)
    except StorageError:
        return 0


def touch(path: Path) -> None:
    """Note that a file was used now, if the cache can be written."""
    with contextlib.suppress(OSError):
        os.utime(path)


def keep(path: Path, write: Callable[[IO[bytes]], None], say: Message) -> bool:
    """Write a file of the cache in one piece; False, and a message, where it cannot be kept.

    What ``write`` raises beside OSError is passed on, and no file is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, TEMPORARY)  # of killed runs, as large as a model
        with replacing(path, TEMPORARY, durable=True) as file:
            write(file)
    except OSError as error:  # not writable, or a full disk
        say(f"cannot keep packed weights in {path.parent} ({error.strerror}); running without the cache")
        return False
    make_room(path, say)
    return True


def keep_nowhere(write: Callable[[IO[bytes]], None], cache: Path | None) -> PackedFile:
    """Write a packed file without a name, which lives as long as this process: in the temporary directory, or memory.

    Args:
        cache: the directory in which it could not be kept; None: it was not to be kept.

    Raises:
        StorageError: no space there either.
    """
    with anonymous_file() as file:
        try:
            write(file)
        except OSError as error:
            where = tempfile.gettempdir()
            way = f"free some space in {where}, or set TMPDIR to a directory on a disk that has some"
            if cache is not None:
                way = f"free some space in {cache}, or set GEMINATE_CACHE to a directory on a disk that has some"
            raise StorageError(
                f"cannot write the packed weights to a temporary file in {where}: {error.strerror}; {way}"
            ) from None
        return PackedFile(file, "the packed weights")
