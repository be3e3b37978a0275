"""The packed cache file: weights as the kernels want them, written once, mapped by later starts.

Layout: magic, header length, header CRC-32, JSON header, then arrays at 4096-byte boundaries. The header carries
a fingerprint of the source (names, sizes, modification times, configuration); another fingerprint is a stale cache.
Damage is looked for at every open: owner and mode, header checksum, file size, and the CRC-32 of every array's first
and last 64 KiB (so of everything in small files). A cache that fails is rebuilt, never used. The header also has the
CRC-32 of whole arrays, which `damaged` compares: it reads everything, so a server does it after the start.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from geminate.errors import WeightsError
from geminate.system import directories, files

MAGIC = b"GEMINATE"
VERSION = 3
ALIGN = 4096
PROBE = 65536
CHECK_BLOCK = 4 << 20
ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to a run that was killed


@dataclass
class CacheWriter:
    """Appends arrays to a file object; `finish` writes the header in front.

    Attributes:
        on_block: called after every block; what it raises ends the writing.
    """

    file: IO[bytes]
    fingerprint: dict[str, Any]
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    on_block: Callable[[], None] = lambda: None
    _at: int = 0

    def add(self, name: str, dtype: str, shape: Iterable[int], blocks: Iterable[np.ndarray]) -> None:
        """Write one array given as consecutive blocks (so that none is ever whole in memory)."""
        start, written, head, tail, whole = self._at, 0, b"", b"", 0
        for block in blocks:
            raw = np.ascontiguousarray(block).data.cast("B")
            self.file.write(raw)
            written += len(raw)
            whole = zlib.crc32(raw, whole)
            if len(head) < PROBE:
                head += bytes(raw[: PROBE - len(head)])
            tail = (tail + bytes(raw[-PROBE:]))[-PROBE:]
            self.on_block()
        self.arrays[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "offset": start,
            "nbytes": written,
            "crc": [zlib.crc32(head), zlib.crc32(tail), whole],
        }
        padding = -written % ALIGN
        self.file.write(b"\0" * padding)
        self._at += written + padding

    def finish(self) -> None:
        """Write the header behind the data and its place at the very end."""
        header = json.dumps(
            {
                "version": VERSION,
                "fingerprint": self.fingerprint,
                "arrays": self.arrays,
                "meta": self.meta,
                "data_bytes": self._at,
            }
        ).encode()
        self.file.write(header)
        self.file.write(struct.pack("<II", len(header), zlib.crc32(header)) + MAGIC)
        self.file.flush()


def open_cache(file: IO[bytes], fingerprint: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map every array of a finished cache.

    Returns:
        arrays by name and the ``meta`` dictionary.

    Raises:
        WeightsError: damaged, of another version, or made from another source.
    """
    _check_owner(file)
    size = file.seek(0, os.SEEK_END)
    if size < 16:
        raise WeightsError("the packed cache is truncated")
    file.seek(size - 16)
    length, crc, magic = struct.unpack("<II8s", file.read(16))
    if magic != MAGIC or length > size - 16:
        raise WeightsError("the packed cache is truncated or not one of ours")
    file.seek(size - 16 - length)
    raw = file.read(length)
    if zlib.crc32(raw) != crc:
        raise WeightsError("the packed cache has a damaged header")
    header = json.loads(raw)
    if header["version"] != VERSION or header["fingerprint"] != fingerprint:
        raise WeightsError("the packed cache is stale")
    if header["data_bytes"] != size - 16 - length:
        raise WeightsError("the packed cache has lost data")
    mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without huge pages for this kind of file
            mapped.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapped, dtype=np.uint8)
    arrays: dict[str, np.ndarray] = {}
    for name, a in header["arrays"].items():
        flat = whole[a["offset"] : a["offset"] + a["nbytes"]]
        probes = [zlib.crc32(bytes(flat[:PROBE])), zlib.crc32(bytes(flat[max(0, len(flat) - PROBE) :]))]
        if probes != a["crc"][:2]:
            raise WeightsError(f"the packed cache is damaged in {name}")
        arrays[name] = flat.view(a["dtype"]).reshape(a["shape"])
    header["meta"]["crc"] = {name: a["crc"][2] for name, a in header["arrays"].items()}
    return arrays, header["meta"]


def _check_owner(file: IO[bytes]) -> None:
    """Whoever can write a mapped file decides what the model says: only this user, or root, may.

    Raises:
        WeightsError: somebody else's, or writable by others.
    """
    found = os.fstat(file.fileno())
    if not files.same_user(found, or_root=True):
        raise WeightsError(f"the packed cache belongs to user {found.st_uid}")
    if files.others_write(found):
        raise WeightsError("the packed cache can be written by other users")


def damaged(arrays: Mapping[str, np.ndarray], crc: Mapping[str, int]) -> str | None:
    """The first array whose bytes are not those that were packed, or None; reads all of them, at some 4 GB/s."""
    for name, expected in crc.items():
        flat = arrays[name].reshape(-1).view(np.uint8)
        found = 0
        for start in range(0, len(flat), CHECK_BLOCK):
            found = zlib.crc32(flat[start : start + CHECK_BLOCK].data, found)  # without the interpreter lock
        if found != expected:
            return name
    return None


def cache_directory(chosen: Path | None = None) -> Path:
    """``chosen``, else GEMINATE_CACHE, else the user's cache directory."""
    if chosen is not None:
        return chosen
    if os.environ.get("GEMINATE_CACHE"):
        return Path(os.environ["GEMINATE_CACHE"]).expanduser()
    return directories.cache()


def new_file(directory: Path) -> IO[bytes]:
    """A temporary file in ``directory`` (made if need be), to be renamed when it is whole.

    Temporary files that a killed run left there are removed: they are as large as a model.

    Raises:
        OSError: it cannot be written there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(".packing-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    return tempfile.NamedTemporaryFile(dir=directory, prefix=".packing-", delete=False)
