"""Safetensors written tensor by tensor: sizes first, then data, so that no model is ever whole in memory."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geminate.checkpoint.safetensors_reader import DTYPES


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A tensor to be written: its safetensors dtype and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


def write_safetensors(
    path: Path, planned: Mapping[str, Planned], blocks: Iterable[tuple[str, Iterator[np.ndarray]]]
) -> None:
    """Write one file.

    Args:
        planned: every tensor. blocks: (name, consecutive parts of its data), each tensor once, in any order.

    Raises:
        OSError: the disk is full. ValueError: data that is not what was planned.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at, offsets = 0, {}
    for name, each in planned.items():
        header[name] = {"dtype": each.dtype, "shape": list(each.shape), "data_offsets": [at, at + each.nbytes]}
        offsets[name] = at
        at += each.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    left = set(planned)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        base = file.tell()
        file.truncate(base + at)
        for name, parts in blocks:
            left.remove(name)
            file.seek(base + offsets[name])
            written = 0
            for part in parts:
                written += file.write(np.ascontiguousarray(part).data.cast("B"))
            if written != planned[name].nbytes:
                raise ValueError(f"{name}: {written} bytes instead of {planned[name].nbytes}")
    if left:
        raise ValueError(f"never written: {sorted(left)}")
