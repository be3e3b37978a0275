"""Compares packed weights with their checksums: all of them, or rows of a table before they are first read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from geminate.arrays import I32
from geminate.checkpoint.packed_file import BLOCK, PackedArray
from geminate.replacing import replacing
from geminate.weights.packing import Progress

SPAN = 64  # blocks that a thread takes at a time: 4 MiB
VERIFYING = "verifying"  # the name of this work for `Progress`
RECORD = "verified.json"  # in the cache directory
MOST_RECORDS = 1000


def find_damage(arrays: Iterable[PackedArray], threads: int = 1, progress: Progress | None = None) -> str | None:
    """Read whole arrays; the first damage that is found, in words, or None.

    Args:
        threads: that read. progress: called with (`VERIFYING`, bytes done, bytes); what it raises ends the reading.
    """
    spans = [
        (array, start, min(start + SPAN, array.blocks)) for array in arrays for start in range(0, array.blocks, SPAN)
    ]
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=VERIFYING)
    try:
        done = (pool.submit(array.damage, start, stop) for array, start, stop in spans)
        for number, found in enumerate(list(done), 1):
            if problem := found.result():
                return problem
            if progress is not None:
                progress(VERIFYING, number * SPAN * BLOCK, len(spans) * SPAN * BLOCK)
        return None
    finally:
        pool.shutdown(cancel_futures=True)


class RowCheck:
    """Compares rows of tables with their checksums before a pass reads them for the first time.

    Args:
        tables: the arrays (codes, scales) of each table, all row-major over the same rows.
    """

    def __init__(self, tables: Sequence[Sequence[PackedArray]]) -> None:
        self._tables = [_Table(planes) for planes in tables]

    def __call__(self, ids: I32) -> str | None:
        """The first damage in the rows of these token ids, int32 [n], in words; None: they are intact."""
        return next((problem for table in self._tables if (problem := table.check(ids))), None)


class _Table:
    def __init__(self, planes: Sequence[PackedArray]) -> None:
        self._known = np.zeros(planes[0].data.shape[0], dtype=np.bool_)
        self._planes = [(plane, np.zeros(plane.blocks, dtype=np.bool_)) for plane in planes]

    def check(self, ids: I32) -> str | None:
        if self._known.take(ids, mode="clip").all():
            return None
        rows = np.unique(ids[(ids >= 0) & (ids < len(self._known))]).astype(np.int64)
        rows = rows[~self._known[rows]]
        for plane, intact in self._planes:
            width = plane.data.nbytes // len(self._known)
            for first, last in zip(rows * width // BLOCK, ((rows + 1) * width - 1) // BLOCK, strict=True):
                for block in range(first, last + 1):
                    if not intact[block] and (problem := plane.damage(block, block + 1)):
                        return problem
                    intact[block] = True
        self._known[rows] = True
        return None


def was_verified(folder: Path, path: Path, stamps: Sequence[Sequence[Any]]) -> bool:
    """Whether all of a packed file was found intact on this machine, and it has not changed since."""
    return _records(folder).get(str(path.resolve())) == [list(stamp) for stamp in stamps]


def note_verified(folder: Path, path: Path, stamps: Sequence[Sequence[Any]]) -> None:
    """Remember that a packed file is intact, if the cache directory can be written."""
    kept = {name: seen for name, seen in _records(folder).items() if _is_there(name)}
    kept.pop(str(path.resolve()), None)
    kept = dict(list(kept.items())[-MOST_RECORDS:]) | {str(path.resolve()): [list(stamp) for stamp in stamps]}
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / RECORD, ".verified-") as file:
            file.write(json.dumps(kept).encode())


def _is_there(name: str) -> bool:
    return os.path.exists(name) or os.path.isfile(os.path.dirname(name))  # the file itself, or a drafter in it


def _records(folder: Path) -> dict[str, Any]:
    try:
        kept = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}
