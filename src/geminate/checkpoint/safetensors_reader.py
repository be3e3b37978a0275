"""Read safetensors checkpoints tensor by tensor through memory maps; nothing is loaded as a whole.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, data
(huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.checkpoint.entries import Grid
from geminate.checkpoint.json_file import MAX_JSON, check_regular
from geminate.checkpoint.missing import what_it_is
from geminate.errors import ModelNotFoundError, WeightsError, shown
from geminate.formats.rounding import bf16_to_f32

# bfloat16 has no NumPy dtype: its bits travel as uint16.
DTYPES: dict[str, type[np.generic]] = {
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
MAX_HEADER = 32 << 20  # a name, a type and two offsets take 100 bytes


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where a tensor stands in its file; an `Entry`."""

    grid: ClassVar[Grid | None] = None
    whole_norm: ClassVar[bool] = False
    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    def map(self) -> np.ndarray:
        """The tensor, memory-mapped read-only; bfloat16 as uint16 bits."""
        if self.nbytes == 0:
            return np.zeros(self.shape, dtype=DTYPES[self.dtype])
        flat = np.memmap(self.path, mode="r", offset=self.offset, shape=(self.nbytes,), dtype=np.uint8)
        return flat.view(DTYPES[self.dtype]).reshape(self.shape)

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop of the leading axis as float32 (a copy)."""
        part = self.map()[start:stop]
        return bf16_to_f32(part) if self.dtype == "BF16" else part.astype(np.float32)

    def codes(self, start: int, stop: int) -> tuple[I8, U16]:
        """Never: plain numbers lie on no grid."""
        raise WeightsError(f"{self.name} is {self.dtype}, which has no codes")


def checkpoint_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted.

    Raises:
        ModelNotFoundError: none. WeightsError: a shard that the index names is missing.
    """
    index = directory / "model.safetensors.index.json"
    if index.exists():
        try:
            check_regular(index, WeightsError, MAX_JSON)
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            # Plain names only: an index must not send the reader elsewhere on the disk.
            if not shards or any(not isinstance(s, str) or not s or Path(s).name != s for s in shards):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise WeightsError(f"{index} is damaged: no weight_map of file names; download it again") from None
        except OSError as error:
            raise WeightsError(f"cannot read {index}: {error.strerror}") from None
        for shard in shards:
            if not (directory / shard).is_file():
                raise WeightsError(
                    f"{directory} lacks {shard[:200]}, which its index names; the download is incomplete"
                )
        return [directory / shard for shard in shards]
    files = sorted(path for path in directory.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not files:
        raise ModelNotFoundError(what_it_is(directory) or f"{directory} has no safetensors weights")
    return files


def read_files(files: Sequence[Path]) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint's files by its name there.

    Raises:
        WeightsError: a damaged file, or one name in two files.
    """
    entries: dict[str, TensorEntry] = {}
    for path in files:
        for entry in read_header(path):
            if entry.name in entries:
                raise WeightsError(f"tensor {shown(entry.name)} stands in two files of {path.parent}")
            entries[entry.name] = entry
    return entries


def read_header(path: Path) -> list[TensorEntry]:
    """The tensors of one file, checked: dtypes, sizes, bounds, no overlap.

    Raises:
        WeightsError: truncated or corrupted.
    """
    damaged = f"{path} is truncated or corrupted"
    try:
        size = check_regular(path, WeightsError)
        with path.open("rb") as f:
            start = f.read(8)
            if len(start) < 8:
                raise WeightsError(f"{damaged}: only {size} bytes; download it again")
            (length,) = struct.unpack("<Q", start)
            if length > size - 8:
                raise WeightsError(f"{damaged}: its header claims {length} bytes; download it again")
            if length > MAX_HEADER:
                raise WeightsError(f"{path} has a header of {length:,} bytes, of which {MAX_HEADER:,} are allowed")
            header = json.loads(f.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise WeightsError(f"{damaged}: its header is not JSON; download it again") from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{damaged}: its header is not an object; download it again")
    header.pop("__metadata__", None)
    base = 8 + length
    entries = [_entry(name, value, path, base, size) for name, value in header.items()]
    last = base
    for entry in sorted(entries, key=lambda e: (e.offset, e.nbytes)):
        if entry.offset < last:
            raise WeightsError(f"{damaged}: tensor {shown(entry.name)} overlaps another")
        if entry.offset > last:
            raise WeightsError(
                f"{damaged}: {entry.offset - last} bytes before tensor {shown(entry.name)} belong to none"
            )
        last = entry.offset + entry.nbytes
    if last != size:
        raise WeightsError(f"{damaged}: {size - last} bytes behind its last tensor; download it again")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python's parser would silently keep the last of two tensors of one name.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(name: str, value: Any, path: Path, base: int, size: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        numbers = [*shape, begin, end]
        if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} is corrupted: bad header entry for tensor {shown(name)}") from None
    if dtype not in DTYPES:
        raise WeightsError(f"{path}: tensor {shown(name)} has dtype {dtype[:40]}, which is not supported")
    if end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise WeightsError(
            f"{path} is corrupted: tensor {shown(name)} has {end - begin} bytes for shape {shown(list(shape))}"
        )
    if base + end > size:
        raise WeightsError(
            f"{path} is truncated: tensor {shown(name)} ends at byte {base + end} of {size}; download it again"
        )
    return TensorEntry(name=name, dtype=dtype, shape=shape, path=path, offset=base + begin, nbytes=end - begin)
