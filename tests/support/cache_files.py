"""Packed cache files forged with valid checksums, as somebody who may write the directory could."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geminate.weights.packed_cache import PROBE


def forge(
    path: Path,
    change_header: Callable[[dict[str, Any]], None] = lambda header: None,
    arrays: dict[str, np.ndarray] | None = None,
) -> None:
    """Rewrite a packed file: arrays replaced by others of the same size, the header changed, checksums made anew."""
    whole = bytearray(path.read_bytes())
    length = struct.unpack("<II8s", whole[-16:])[0]
    header = json.loads(whole[-16 - length : -16])
    for name, array in (arrays or {}).items():
        entry, raw = header["arrays"][name], array.tobytes()
        assert len(raw) == entry["nbytes"], name
        whole[entry["offset"] : entry["offset"] + len(raw)] = raw
        entry["crc"] = [zlib.crc32(raw[:PROBE]), zlib.crc32(raw[max(0, len(raw) - PROBE) :]), zlib.crc32(raw)]
    change_header(header)
    text = json.dumps(header).encode()
    path.write_bytes(whole[: -16 - length] + text + struct.pack("<II", len(text), zlib.crc32(text)) + b"GEMINATE")
