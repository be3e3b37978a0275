"""Writes a packed file, array by array, so that no model is ever whole in memory; see `packed_file` for the format."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from geminate.checkpoint.packed_file import ALIGN, BLOCK, MAGIC, TAIL, VERSION


@dataclass
class PartWriter:
    """One model of a packed file.

    Attributes:
        whole: whether it must hold everything; otherwise tensors that need no packing may stay in the checkpoint.
        about: origin, layout, fingerprint: what stands in the header beside tensors and arrays.
        on_block: called after every block; what it raises ends the writing.
    """

    writer: PackedWriter
    whole: bool
    about: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    on_block: Callable[[], None] = lambda: None

    def add(self, name: str, dtype: str, shape: Iterable[int], blocks: Iterable[np.ndarray]) -> None:
        """Write one array given as consecutive blocks.

        Raises:
            OSError: the disk is full.
        """
        self.arrays[name] = {
            "dtype": dtype,
            "shape": list(shape),
            **self.writer.array(blocks, lambda: self.on_block()),
        }

    def add_document(self, name: str, raw: bytes) -> None:
        """Write a small file.

        Raises:
            OSError: the disk is full.
        """
        self.documents[name] = self.writer.raw(raw)


@dataclass
class PackedWriter:
    """Appends to a file object that is empty; `finish` writes the header.

    Args:
        made: the program that writes, in words.
    """

    file: IO[bytes]
    made: str
    parts: dict[str, PartWriter] = field(default_factory=dict)
    _sums: list[int] = field(default_factory=list)
    _at: int = 0

    def __post_init__(self) -> None:
        self._write(MAGIC + struct.pack("<I", VERSION))
        self._pad()

    def part(self, name: str, *, whole: bool, about: Mapping[str, Any]) -> PartWriter:
        """Begin a model: ``target`` or ``drafter``."""
        self.parts[name] = PartWriter(writer=self, whole=whole, about=dict(about))
        return self.parts[name]

    def _write(self, raw: bytes | memoryview) -> None:
        self.file.write(raw)
        self._at += len(raw)

    def _pad(self) -> None:
        self._write(b"\0" * (-self._at % ALIGN))

    def raw(self, raw: bytes) -> tuple[int, int, int]:
        """Write bytes; their offset, number and CRC-32."""
        start = self._at
        self._write(raw)
        self._pad()
        return start, len(raw), zlib.crc32(raw)

    def array(self, blocks: Iterable[np.ndarray], on_block: Callable[[], None]) -> dict[str, int]:
        """Write an array; where it stands, and its checksums."""
        start, first, whole, part, filled = self._at, len(self._sums), 0, 0, 0
        for block in blocks:
            raw = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
            self._write(raw)
            whole = zlib.crc32(raw, whole)
            at = 0
            while at < len(raw):
                taken = min(BLOCK - filled, len(raw) - at)
                part = zlib.crc32(raw[at : at + taken], part)
                at, filled = at + taken, filled + taken
                if filled == BLOCK:
                    self._sums.append(part)
                    part, filled = 0, 0
            on_block()
        if filled:
            self._sums.append(part)
        nbytes = self._at - start
        self._pad()
        return {"offset": start, "nbytes": nbytes, "block": first, "crc": whole}

    def finish(self) -> None:
        """Write the checksums, the header behind all data, and its place at the very end.

        Raises:
            OSError: the disk is full.
        """
        offset, nbytes, crc = self.raw(np.array(self._sums, dtype="<u4").tobytes())
        parts = {
            name: {
                **part.about,
                "tensors": part.tensors,
                "arrays": part.arrays,
                "documents": part.documents,
            }
            for name, part in self.parts.items()
        }
        header = json.dumps(
            {
                "made": self.made,
                "checksums": {"block": BLOCK, "offset": offset, "nbytes": nbytes, "crc": crc},
                "parts": parts,
                "data_bytes": self._at,
            }
        ).encode()
        self._write(header)
        self._write(TAIL.pack(len(header), zlib.crc32(header), MAGIC))
        self.file.flush()
