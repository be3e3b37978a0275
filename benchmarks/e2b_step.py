"""Pass times T(M) of the real E2B shape with random weights made in memory: speed does not depend on their values.

Usage: python benchmarks/e2b_step.py [--weights int8] [--rows 1,2,3,5,8] [--threads 2] [--json FILE]

Prints the machine and the ceiling (weight bytes over the read bandwidth measured in the same run), medians over
repeats with row counts interleaved, and one JSON line last. Needs some 4 GB of memory for int8.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

from embedded import machine
from geminate.config_reader import load_target_config
from geminate.models.gemma4 import TargetModel
from geminate.ops.native import NativeBackend
from geminate.ops.packed import PackedMatrix, RowTable, padded
from geminate.weights.names import TensorSpec, expected_tensors

E2B = {
    "model_type": "gemma4_text", "dtype": "bfloat16", "vocab_size": 262144, "hidden_size": 1536,
    "num_hidden_layers": 35, "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512,
    "intermediate_size": 6144, "use_double_wide_mlp": True, "num_kv_shared_layers": 20, "sliding_window": 512,
    "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144, "final_logit_softcapping": 30.0,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
}  # fmt: skip


class RandomStore:
    """Stands in for a WeightStore: random codes, constant small scales."""

    def __init__(self, specs: list[TensorSpec], fmt: str) -> None:
        self.format = fmt
        self.specs = {s.name: s for s in specs}
        self.made: dict[str, PackedMatrix] = {}
        self.noise = np.random.default_rng(0).integers(1, 256, 1 << 24, dtype=np.uint8)

    def matrix(self, name: str) -> PackedMatrix:
        """A random packed matrix."""
        if name not in self.made:
            n, k = self.specs[name].shape
            cells = padded(n, 16) * padded(k, 32)
            size = {"bf16": 2 * cells, "int8": cells, "int4": cells // 2}[self.format]
            data = np.resize(self.noise, size)
            scales = None
            if self.format == "bf16":
                data = (data.view(np.uint16) & 0x807F) | 0x3C00  # about 0.01, either sign
            else:
                scales = np.full(cells // 32, 0x0C00, dtype=np.uint16)
            self.made[name] = PackedMatrix(format=self.format, n=n, k=k, data=data, scales=scales)  # type: ignore[arg-type]
        return self.made[name]

    def embedding(self) -> PackedMatrix:
        """The tied table."""
        return self.matrix("embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """Zeros that are never touched beyond the rows read."""
        rows, width = self.specs[name].shape
        data = np.zeros((rows, width), dtype=np.int8)
        return RowTable(
            format="int8", rows=rows, width=width, data=data, scales=np.zeros((rows, width // 32), np.uint16)
        )

    def vector(self, name: str) -> np.ndarray:
        """Ones."""
        return np.ones(self.specs[name].shape, dtype=np.float32)

    def scalar(self, name: str) -> float:
        """One."""
        return 1.0


def bandwidth(threads: int, repeats: int) -> float:
    """Best bytes/s of all threads summing a large array (NumPy reductions release the GIL)."""
    size = 1 << 28
    parts = [np.ones(size // 8 // threads, dtype=np.float64) for _ in range(threads)]
    best = 0.0
    for _ in range(repeats):
        workers = [threading.Thread(target=part.max) for part in parts]
        began = time.perf_counter()
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        best = max(best, size / (time.perf_counter() - began))
    return best


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", choices=["bf16", "int8", "int4"], default="int8")
    parser.add_argument("--rows", default="1,2,3,5,8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [int(m) for m in args.rows.split(",")]
    config = load_target_config(E2B)
    store = RandomStore(expected_tensors(config), args.weights)
    backend = NativeBackend(args.threads)
    target = TargetModel(config, store, backend, max_rows=128)  # type: ignore[arg-type]
    weight_bytes = sum(m.nbytes for m in store.made.values())
    cache = target.new_cache()
    at = np.arange(128, dtype=np.int32)
    cache.reserve(128)
    began = time.perf_counter()
    target.forward(at, at, np.zeros_like(at), [cache], at[:0])
    prefill = 128 / (time.perf_counter() - began)
    cache.advance(128)
    times: dict[int, list[float]] = {m: [] for m in rows}
    for _ in range(args.repeats):
        for m in rows:
            part = np.arange(m, dtype=np.int32)
            began = time.perf_counter()
            target.forward(at[:m], part + np.int32(128), np.zeros_like(part), [cache], part)
            times[m].append(time.perf_counter() - began)
    median = {m: statistics.median(t) for m, t in times.items()}
    ratio = {m: statistics.median(a / b for a, b in zip(times[m], times[rows[0]], strict=True)) for m in rows}
    speed = bandwidth(backend.threads, 5)
    result = {
        "benchmark": "e2b_step", "machine": machine(), "isa": backend.isa, "threads": backend.threads,
        "weights": args.weights, "weight_bytes": weight_bytes, "bandwidth_gbps": round(speed / 1e9, 1),
        "ceiling_ms": round(weight_bytes / speed * 1e3, 1), "repeats": args.repeats,
        "step_ms": {str(m): round(t * 1e3, 1) for m, t in median.items()},
        "best_ms": {str(m): round(min(t) * 1e3, 1) for m, t in times.items()},
        "ratio": {str(m): round(r, 2) for m, r in ratio.items()}, "prefill_128_tokens_per_s": round(prefill, 1),
    }  # fmt: skip
    print(f"machine  {result['machine']}; {backend.isa}, {backend.threads} threads, {args.weights}")
    print(f"ceiling  {weight_bytes / 1e9:.2f} GB at {speed / 1e9:.1f} GB/s: {result['ceiling_ms']} ms a pass")
    for m in rows:
        print(f"T({m})  {median[m] * 1e3:7.1f} ms  {ratio[m]:.2f} x T({rows[0]})")
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
