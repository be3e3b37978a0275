"""Packed files read and forged with valid checksums, as somebody who may write the directory could."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geminate.checkpoint.packed_file import BLOCK, TAIL


def header_of(path: Path) -> dict[str, Any]:
    """The header of a packed file."""
    whole = path.read_bytes()
    length = TAIL.unpack(whole[-TAIL.size :])[0]
    return json.loads(whole[-TAIL.size - length : -TAIL.size])


def arrays_of(path: Path) -> dict[str, dict[str, Any]]:
    """Every array of a packed file by ``part/name``: its entry of the header."""
    return {
        f"{part}/{name}": array
        for part, content in header_of(path)["parts"].items()
        for name, array in content["arrays"].items()
    }


def with_header(whole: bytes, header: dict[str, Any]) -> bytes:
    """The bytes of a packed file with another header."""
    length = TAIL.unpack(whole[-TAIL.size :])[0]
    text = json.dumps(header).encode()
    return whole[: -TAIL.size - length] + text + TAIL.pack(len(text), zlib.crc32(text), b"GEMINATE")


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def forge(
    path: Path,
    change_header: Callable[[dict[str, Any]], None] = lambda header: None,
    arrays: dict[str, np.ndarray] | None = None,
) -> None:
    """Rewrite a packed file of one part: arrays replaced by others of the same size, the header changed by
    ``change_header`` (which gets that of the part), checksums made anew."""
    whole = bytearray(path.read_bytes())
    header = header_of(path)
    (part,) = header["parts"].values()
    sums = header["checksums"]
    for name, array in (arrays or {}).items():
        entry, raw = part["arrays"][name], array.tobytes()
        assert len(raw) == entry["nbytes"], name
        whole[entry["offset"] : entry["offset"] + len(raw)] = raw
        entry["crc"] = zlib.crc32(raw)
        for number, start in enumerate(range(0, len(raw), BLOCK)):
            at = sums["offset"] + 4 * (entry["block"] + number)
            whole[at : at + 4] = struct.pack("<I", zlib.crc32(raw[start : start + BLOCK]))
    sums["crc"] = zlib.crc32(whole[sums["offset"] : sums["offset"] + sums["nbytes"]])
    change_header(part)
    path.write_bytes(with_header(bytes(whole), header))
