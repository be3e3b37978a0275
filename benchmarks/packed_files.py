"""What the checksums of a packed file cost: open, whole verification by threads, rows at first touch; one JSON object.

Usage:
    python benchmarks/packed_files.py --json benchmarks/packed_files.json [--gigabytes 2] [--work DIR]

A file of random bytes in the shape of E2B in int8 (one large matrix, 35 layers of small ones, a table read row by row)
is written to ``--work`` and is in the page cache afterwards: what the disk takes is to be added where it is not. The
least of several runs; processor seconds are what other programs on the machine change least.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geminate import machine
from geminate.checkpoint.packed_file import BLOCK, PackedFile
from geminate.checkpoint.packed_writer import PackedWriter
from geminate.weights.verification import RowCheck, find_damage

RUNS = 5
PIECE = 16 << 20
LAYERS = 35
TABLE_ROW = 8960  # bytes of a token's per-layer embeddings in E2B, int8 without scales


def noise(nbytes: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random bytes in pieces."""
    for start in range(0, nbytes, PIECE):
        yield rng.integers(0, 256, min(PIECE, nbytes - start), dtype=np.uint8)


def write(path: Path, nbytes: int) -> float:
    """Write the file; seconds."""
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    with path.open("wb") as file:
        writer = PackedWriter(file, "benchmark")
        part = writer.part("target", whole=True, about={"skipped": {}})
        table = nbytes // 2 // TABLE_ROW
        sizes = {"embed": nbytes // 8} | {f"layer{i}": nbytes * 3 // 8 // LAYERS for i in range(LAYERS)}
        for name, size in sizes.items():
            part.add(name, "|u1", (size,), noise(size, rng))
        part.add("table", "|u1", (table, TABLE_ROW), noise(table * TABLE_ROW, rng))
        writer.finish()
    return time.perf_counter() - began


def least(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(RUNS):
        began = clock()
        run()
        times.append(clock() - began)
    return min(times)


def rows_cost(packed: PackedFile) -> dict[str, float]:
    """Microseconds of the processor a row: the first time, with a block to compare, and when it is known."""
    table = packed.parts["target"].arrays["table"]
    check = RowCheck([[table]])
    ids = (np.arange(500, dtype=np.int64) * 7919 % table.data.shape[0]).astype(np.int32)

    def timed(check: RowCheck) -> float:
        began = time.process_time()
        assert check(ids) is None
        return (time.process_time() - began) / len(ids) * 1e6

    first = min(timed(RowCheck([[table]])) for _ in range(RUNS))
    check(ids)
    known = min(timed(check) for _ in range(RUNS))
    return {"first_us": round(first, 2), "known_us": round(known, 4)}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    nbytes = int(args.gigabytes * 1e9)
    path = args.work / "packed-files-benchmark.geminate"
    try:
        made: dict[str, Any] = {"machine": machine.describe(), "bytes": nbytes, "block": BLOCK}
        made["write_s"] = round(write(path, nbytes), 2)
        packed = PackedFile.open(path)
        arrays = list(packed.parts["target"].arrays.values())
        streamed = [array for array in arrays if array.name != "table"]
        made["streamed_bytes"] = sum(array.data.nbytes for array in streamed)
        made["open_ms"] = round(least(lambda: PackedFile.open(path)) * 1e3, 2)
        made["probe_ms"] = round(least(lambda: packed.probe("target")) * 1e3, 2)
        made["checksum_bytes"] = 4 * sum(array.blocks for array in arrays)
        for threads in sorted({1, os.cpu_count() or 1}):
            warm = least(lambda threads=threads: find_damage(arrays, threads))
            made[f"warm_gb_per_s_{threads}_threads"] = round(nbytes / warm / 1e9, 2)
        made["cpu_s_per_gb"] = round(least(lambda: find_damage(arrays), clock=time.process_time) / nbytes * 1e9, 3)
        made["rows"] = rows_cost(packed)
    finally:
        path.unlink(missing_ok=True)
    args.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made))


if __name__ == "__main__":
    main()
