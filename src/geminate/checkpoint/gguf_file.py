"""The header of a GGUF file: metadata and where the tensors stand, checked before anything is believed.

Format: magic, version, counts, typed metadata, tensor descriptions, aligned data, all little-endian
(ggml-org/ggml, docs/gguf.md). Versions 2 and 3 are read; tensors are mapped, never loaded as a whole. Of a file in
several parts the first has the metadata, and each has tensors of its own.
"""

from __future__ import annotations

import functools
import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geminate.checkpoint.gguf_parts import first_part, part_paths
from geminate.checkpoint.json_file import check_regular
from geminate.errors import WeightsError, shown

MAGIC = b"GGUF"
# Type number -> struct code of metadata values; 8 is a string, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT32, STRING, ARRAY = 6, 8, 9
# ggml type number -> name, weights of a block, bytes of a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
MAX_TENSORS = 1 << 20
MAX_PARTS = 9999
MAX_DIMENSIONS = 4
MAX_NAME = 1 << 16
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """Where a tensor stands.

    Attributes:
        shape: slowest axis first, as NumPy counts (the file has it the other way round).
        dtype: ggml's name of the type. path: the file, or the part of it. offset: bytes from its start.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A header. ``metadata`` holds numbers, strings, and lists of them (number arrays as NumPy arrays).

    Attributes:
        path: the file, the first of its ``parts``.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    parts: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        """``general.architecture``, or "" where it is missing."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that begins as GGUF does; False for what cannot be read."""
    try:
        if not path.is_file():  # reading a pipe would wait
            return False
        with path.open("rb") as f:
            return f.read(4) == MAGIC
    except OSError:
        return False


def gguf_architecture(path: Path) -> str:
    """``general.architecture`` of a file, "" if it has none; only as much of the header is read as that needs.

    A part that has none has that of its first part.

    Raises:
        WeightsError: not GGUF, or damaged before that.
    """
    found = _architecture(path)
    return found if found or first_part(path) == path else _architecture(first_part(path))


def _architecture(path: Path) -> str:
    try:
        size = check_regular(path, WeightsError)
        if size == 0:
            raise WeightsError(f"{path} is empty; download it again")
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _Parser(path, mapped, size).architecture()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from None


def read_gguf(path: Path) -> GgufFile:
    """The header of a file, with the tensors of all its parts; read once per version of the file, then remembered.

    Raises:
        WeightsError: not GGUF, truncated, damaged, or a part is missing; the message names what is wrong.
    """
    part = _read_one(path)
    count = part.metadata.get("split.count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_PARTS:
        raise WeightsError(f"{path} is truncated or damaged: split.count is {shown(count)}; download it again")
    return part if count <= 1 else _joined(path, count)


def _joined(path: Path, count: int) -> GgufFile:
    paths = part_paths(path, count) or part_paths(path.resolve(), count)
    if paths is None:
        raise WeightsError(
            f"{path} is one of {count} parts, but not named like one: call them "
            f"NAME-00001-of-{count:05d}.gguf and so on, or merge them (llama-gguf-split --merge)"
        )
    missing = [place.name for place in paths if not place.is_file()]
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise WeightsError(f"{path} is one of {count} parts, and beside it {names} is missing; download all of them")
    stats = [place.stat() for place in paths]
    return _join(tuple(paths), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@functools.lru_cache(maxsize=2)
def _join(paths: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> GgufFile:
    files = [_read_one(place) for place in paths]
    tensors: dict[str, GgufTensor] = {}
    for number, (place, file) in enumerate(zip(paths, files, strict=True)):
        said = (file.metadata.get("split.no"), file.metadata.get("split.count"))
        if said != (number, len(stamps)):
            raise WeightsError(
                f"{place} says that it is part {shown(said[0])}, counted from 0, of {shown(said[1])}; "
                "download all parts again"
            )
        for name, tensor in file.tensors.items():
            if name in tensors:
                raise WeightsError(f"{place}: tensor {shown(name)} stands in another part too; download them again")
            tensors[name] = replace(tensor, path=place)
    expected = files[0].metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise WeightsError(
            f"{paths[0]}: its parts hold {len(tensors)} tensors of {shown(expected)}; download all parts again"
        )
    return replace(files[0], tensors=tensors, parts=paths)


def _read_one(path: Path) -> GgufFile:
    try:
        check_regular(path, WeightsError)
        stat = path.stat()
        return _read(path.resolve(), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from None


@functools.lru_cache(maxsize=4)
def _read(path: Path, size: int, modified: int) -> GgufFile:
    if size == 0:
        raise WeightsError(f"{path} is empty; download it again")
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _Parser(path, mapped, size).file()


class _Parser:
    """Walks a header; every length is checked against what is left of the file before it is used."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0

    def bad(self, what: str) -> WeightsError:
        return WeightsError(f"{self.path} is truncated or damaged: {what}; download it again")

    def take(self, code: str) -> Any:
        width = struct.calcsize("<" + code)
        if self.at + width > self.size:
            raise self.bad(f"it ends at byte {self.size}, inside its header")
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += width
        return value

    def text(self) -> str:
        length = self.take("Q")
        if length > self.size - self.at:
            raise self.bad(f"a string at byte {self.at} claims {length} bytes")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def name(self, what: str) -> str:
        found = self.text()
        if not 0 < len(found) <= MAX_NAME or "\ufffd" in found:
            raise self.bad(f"{what} at byte {self.at} has no proper name")
        return found

    def texts(self, count: int) -> list[str]:
        """An array of strings, in one tight loop: vocabularies hold a million of them."""
        data, at, size, unpack = self.data, self.at, self.size, struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            if at + 8 > size:
                raise self.bad(f"an array of {count} strings runs past its end")
            (length,) = unpack(data, at)
            at += 8 + length
            if at > size:
                raise self.bad(f"a string in an array claims {length} bytes")
            found.append(data[at - length : at].decode("utf-8", errors="replace"))
        self.at = at
        return found

    def value(self, kind: int) -> Any:
        if kind == FLOAT32:
            # 1e-6 was written, not the 9.99999997e-07 that its 32 bits are in 64.
            return float(str(np.float32(self.take("f"))))
        if kind in NUMBERS:
            return self.take(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise self.bad(f"a metadata value has type {kind}, which is none")
        inner, count = self.take("I"), self.take("Q")
        if inner == STRING:
            if count > (self.size - self.at) // 8:
                raise self.bad(f"an array claims {count} strings")
            return self.texts(count)
        if inner not in NUMBERS:  # arrays of arrays are possible in the format but unused
            raise self.bad(f"an array holds values of type {inner}, which is not supported")
        width = struct.calcsize("<" + NUMBERS[inner])
        if count > (self.size - self.at) // width:
            raise self.bad(f"an array claims {count} numbers")
        raw = self.data[self.at : self.at + count * width]
        self.at += count * width
        return np.frombuffer(raw, dtype=np.dtype(NUMBERS[inner]).newbyteorder("<"))

    def counts(self) -> tuple[int, int]:
        """Numbers of tensors and metadata values, behind magic and version."""
        if self.data[:4] != MAGIC:
            raise WeightsError(f"{self.path} is not a GGUF file (it begins with {bytes(self.data[:4])!r})")
        self.at = 4
        version = self.take("I")
        if version not in (2, 3):
            foreign = "big-endian" if version in (0x02000000, 0x03000000) else f"version {version}"
            raise WeightsError(f"{self.path} is GGUF, {foreign}: not supported (little-endian 2 and 3 are); convert it")
        tensors, pairs = self.take("Q"), self.take("Q")
        # The shortest description takes 24 bytes, the shortest pair 13.
        if tensors > min(MAX_TENSORS, self.size // 24) or pairs > self.size // 13:
            raise self.bad(f"it claims {tensors} tensors and {pairs} metadata values")
        return tensors, pairs

    def architecture(self) -> str:
        for _ in range(self.counts()[1]):
            key, value = self.name("a metadata key"), self.value(self.take("I"))
            if key == "general.architecture":
                return value if isinstance(value, str) else ""
        return ""

    def file(self) -> GgufFile:
        tensors, pairs = self.counts()
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.name("a metadata key")
            if key in metadata:
                raise self.bad(f"metadata key {shown(key)} stands twice")
            metadata[key] = self.value(self.take("I"))
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self.bad(f"general.alignment is {shown(alignment)}")
        described = [self.tensor() for _ in range(tensors)]
        base = -(-self.at // alignment) * alignment
        tensors_by_name = self.placed(described, base, alignment)
        return GgufFile(path=self.path, metadata=metadata, tensors=tensors_by_name, parts=(self.path,))

    def tensor(self) -> GgufTensor:
        name = self.name("a tensor")
        count = self.take("I")
        if not 1 <= count <= MAX_DIMENSIONS:
            raise self.bad(f"tensor {shown(name)} has {count} axes")
        sizes = [self.take("Q") for _ in range(count)]
        kind, offset = self.take("I"), self.take("Q")
        if kind not in TYPES:
            raise WeightsError(f"{self.path}: tensor {shown(name)} has ggml type {kind}, which is not supported")
        dtype, block, width = TYPES[kind]
        weights = math.prod(sizes)
        if not weights or sizes[0] % block:
            raise self.bad(f"tensor {shown(name)} has shape {sizes[::-1]} in blocks of {block}")
        nbytes = weights // block * width
        return GgufTensor(
            name=name, dtype=dtype, shape=tuple(sizes[::-1]), path=self.path, offset=offset, nbytes=nbytes
        )

    def placed(self, described: list[GgufTensor], base: int, alignment: int) -> dict[str, GgufTensor]:
        """Tensors by name with offsets in the file: inside it, aligned, none over another."""
        found: dict[str, GgufTensor] = {}
        last = base
        for t in sorted(described, key=lambda t: t.offset):
            if t.name in found:
                raise self.bad(f"tensor {shown(t.name)} stands twice")
            if t.offset % alignment:
                raise self.bad(f"tensor {shown(t.name)} is not aligned to {alignment} bytes")
            start = base + t.offset
            if start < last:
                raise self.bad(f"tensor {shown(t.name)} overlaps another")
            if start + t.nbytes > self.size:
                raise self.bad(f"tensor {shown(t.name)} ends at byte {start + t.nbytes} of {self.size}")
            last = start + t.nbytes
            found[t.name] = replace(t, offset=start)
        return found
