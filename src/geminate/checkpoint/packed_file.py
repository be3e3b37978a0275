"""A packed file: a target, its drafter, or both, in the layout of a backend, mapped as it is.

Format, version 4, little-endian:

- at 0: ``GEMINATE``, uint32 version, zeros up to byte 4096;
- arrays and documents (config.json, tokenizer.json, ...), each at a multiple of 4096;
- checksums: a CRC-32 as uint32 for every 64 KiB of every array, the last block of an array perhaps shorter;
- the header, JSON: per part (``target``, ``drafter``) its arrays, documents, tensors and origin;
- 16 bytes: uint32 length and uint32 CRC-32 of the header, ``GEMINATE``.

At open, the CRC-32 of header and checksums and all offsets and sizes are checked, and before weights are used the first
and last block of every array (`PackedFile.probe`); `PackedArray.damage` compares the rest. Version 3, of the cache
alone, had no first page.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
import struct
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from geminate.arrays import U8
from geminate.errors import WeightsError
from geminate.system import locks
from geminate.system.files import OPEN, others_write, same_user

MAGIC = b"GEMINATE"
VERSION = 4
SUFFIX = ".geminate"
ALIGN = 4096
BLOCK = 65536  # bytes that have a checksum
TAIL = struct.Struct("<II8s")
PARTS = ("target", "drafter")
MAX_HEADER = 64 << 20  # a tensor of the largest model takes some 300 bytes
MAX_DIMENSIONS = 8
DTYPES = ("<f4", "<i4", "<u2", "|u1", "|i1", "<f2", "<u4")


def is_packed(path: Path) -> bool:
    """Whether a path is a file that begins as packed files do, or is called one; False for what cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC or path.suffix == SUFFIX
    except OSError:
        return False


def packed_version(path: Path) -> int | None:
    """The version of a packed file; None for anything else, and for a damaged one of before version 4.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _version(file)


def _version(file: IO[bytes]) -> int | None:
    file.seek(0)
    first = file.read(len(MAGIC) + 4)
    if first[: len(MAGIC)] == MAGIC and len(first) == len(MAGIC) + 4:
        return int(struct.unpack_from("<I", first, len(MAGIC))[0])
    raw = _end(file)[0]
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return int(json.loads(raw)["version"])
    return None


def _end(file: IO[bytes]) -> tuple[bytes, int]:
    """The header of a packed file and the checksum that it should have; empty where there is none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL.size))
    end = file.read(TAIL.size)
    if len(end) < TAIL.size:
        return b"", 0
    length, crc, magic = TAIL.unpack(end)
    if magic != MAGIC or length > min(MAX_HEADER, size - TAIL.size):
        return b"", 0
    file.seek(size - TAIL.size - length)
    return file.read(length), crc


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedArray:
    """An array of a packed file with its checksums.

    Attributes:
        where: the file, as messages name it. name: of the array: the tensor, and behind # its plane.
        data: mapped. crc: CRC-32 of all of it. sums: uint32 [blocks], of each `BLOCK` bytes. offset: in the file.
    """

    where: str
    name: str
    data: np.ndarray
    crc: int
    sums: np.ndarray
    offset: int

    @property
    def blocks(self) -> int:
        """How many blocks have a checksum."""
        return len(self.sums)

    def damage(self, start: int = 0, stop: int | None = None) -> str | None:
        """The first of some blocks whose bytes are not those that were packed, in words; None: all are intact."""
        flat: U8 = self.data.reshape(-1).view(np.uint8)
        for block in range(start, self.blocks if stop is None else stop):
            # Without the interpreter lock, as blocks are larger than 5 KiB.
            if zlib.crc32(flat[block * BLOCK : (block + 1) * BLOCK].data) != self.sums[block]:
                at = self.offset + block * BLOCK
                return f"{self.where} is damaged in {self.name}, between bytes {at:,} and {at + BLOCK:,} of the file"
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedPart:
    """One model of a packed file.

    Attributes:
        arrays: by name. tensors: what each tensor is, see `geminate.weights.packed_header`. about: the header's other
            fields: origin, layout, fingerprint, skipped.
    """

    arrays: Mapping[str, PackedArray]
    tensors: Mapping[str, dict[str, Any]]
    about: Mapping[str, Any]
    documents: Mapping[str, tuple[int, int, int]]


class PackedFile:
    """A packed file, open for as long as anything mapped from it is in use.

    Args:
        file: open for reading; it may be closed afterwards. called: what messages call it.

    Attributes:
        parts: the models in it. made: the program that wrote it, in words. nbytes: of the file.

    Raises:
        WeightsError: damaged, or of another version.
    """

    def __init__(self, file: IO[bytes], called: str) -> None:
        self.called = called
        locks.try_share(file.fileno())  # held by the map: the cache removes no file that is in use
        self.nbytes = file.seek(0, os.SEEK_END)
        header = self._header(file)
        mapped = mmap.mmap(file.fileno(), self.nbytes, access=mmap.ACCESS_READ)
        if sys.platform == "linux":
            with suppress(OSError):  # a kernel without huge pages for this kind of file
                mapped.madvise(mmap.MADV_HUGEPAGE)
        self._whole: U8 = np.frombuffer(mapped, dtype=np.uint8)
        self.made = str(header.get("made", "an unknown program"))[:200]
        try:
            self._data = _count(header["data_bytes"])
            self._sums = self._checksums(header["checksums"])
            self.parts = {name: self._part(header["parts"][name]) for name in PARTS if name in header["parts"]}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise WeightsError(f"{called} has a header that makes no sense") from None
        if not self.parts:
            raise WeightsError(f"{called} holds no model")

    @classmethod
    def open(cls, path: Path, *, called: str | None = None, private: bool = False) -> PackedFile:
        """The packed file at a path.

        Args:
            called: what messages call it; None: its path.
            private: refuse a file that others than its user, or root, own or can write.

        Raises:
            WeightsError: see `PackedFile`; or no regular file, or somebody else's. OSError: it cannot be opened.
        """
        called = called or str(path)
        with os.fdopen(os.open(path, os.O_RDONLY | OPEN), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise WeightsError(f"{called} is no regular file")
            if private:
                _check_owner(found, called)
            return cls(file, called)

    def _header(self, file: IO[bytes]) -> Mapping[str, Any]:
        """The header, its checksum compared."""
        version = _version(file)
        if version is not None and version != VERSION:
            raise WeightsError(f"{self.called} is stale: version {version} of the format, this program has {VERSION}")
        raw, crc = _end(file)
        if version is None or not raw or self.nbytes < ALIGN:
            raise WeightsError(f"{self.called} is truncated, or no packed file")
        if zlib.crc32(raw) != crc:
            raise WeightsError(f"{self.called} has a damaged header")
        try:
            header = json.loads(raw)
        except (ValueError, RecursionError):
            raise WeightsError(f"{self.called} has a damaged header") from None
        if not isinstance(header, dict) or header.get("data_bytes") != self.nbytes - TAIL.size - len(raw):
            raise WeightsError(f"{self.called} has lost data")
        return header

    def probe(self, part: str) -> None:
        """Compare the first and the last block of every array of a part.

        Raises:
            WeightsError: damage.
        """
        for array in self.parts[part].arrays.values():
            for block in sorted({0, array.blocks - 1}) if array.blocks else ():
                if problem := array.damage(block, block + 1):
                    raise WeightsError(problem)

    def _region(self, offset: int, nbytes: int) -> U8:
        if _count(offset) + _count(nbytes) > self._data:
            raise ValueError
        return self._whole[offset : offset + nbytes]

    def _checksums(self, given: Mapping[str, Any]) -> np.ndarray:
        raw = self._region(given["offset"], given["nbytes"])
        if given["block"] != BLOCK or len(raw) % 4:
            raise ValueError
        if zlib.crc32(raw.data) != given["crc"]:
            raise WeightsError(f"{self.called} has damaged checksums")
        return raw.view("<u4")

    def _part(self, given: Mapping[str, Any]) -> PackedPart:
        documents = {}
        for name, (offset, nbytes, crc) in given["documents"].items():
            self._region(offset, nbytes)
            documents[name] = (offset, nbytes, _count(crc))
        tensors = given["tensors"]
        if not all(isinstance(info, dict) for info in tensors.values()):
            raise ValueError
        about = {key: value for key, value in given.items() if key not in ("arrays", "tensors", "documents")}
        return PackedPart(
            arrays={name: self._array(name, one) for name, one in given["arrays"].items()},
            tensors=tensors,
            about=about,
            documents=documents,
        )

    def _array(self, name: str, given: Mapping[str, Any]) -> PackedArray:
        dtype, shape, nbytes, first = given["dtype"], given["shape"], _count(given["nbytes"]), _count(given["block"])
        if dtype not in DTYPES or len(shape) > MAX_DIMENSIONS:
            raise ValueError
        sizes = [_count(size) for size in shape]
        blocks = -(-nbytes // BLOCK)
        if math.prod(sizes) * np.dtype(dtype).itemsize != nbytes or first + blocks > len(self._sums):
            raise ValueError
        flat = self._region(given["offset"], nbytes)
        sums = self._sums[first : first + blocks]
        data = flat.view(dtype).reshape(sizes)
        crc, offset = _count(given["crc"]), given["offset"]
        return PackedArray(where=self.called, name=name, data=data, crc=crc, sums=sums, offset=offset)

    def document(self, part: str, name: str) -> bytes | None:
        """A document of a part; None if it has none of this name.

        Raises:
            WeightsError: damage.
        """
        if name not in self.parts[part].documents:
            return None
        offset, nbytes, crc = self.parts[part].documents[name]
        raw = self._region(offset, nbytes).tobytes()
        if zlib.crc32(raw) != crc:
            raise WeightsError(f"{self.called} is damaged in {name}")
        return raw


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _check_owner(found: os.stat_result, called: str) -> None:
    """Whoever can write a mapped file decides what the model says: in the cache only this user, or root, may.

    Raises:
        WeightsError: somebody else's, or writable by others.
    """
    if not same_user(found, or_root=True):
        raise WeightsError(f"{called} belongs to user {found.st_uid}")
    if others_write(found):
        raise WeightsError(f"{called} can be written by other users")
