"""Pass times T(M) of a GGUF file in its own formats, beside llama-cpp-python on the same file, in turn in one run.

Usage: python benchmarks/kquants/measure.py --model FILE.gguf [--threads 2] [--rounds 9] [--rows 1,2,3,5,8]
           [--no-llama-cpp] [--json FILE]

Every round gives both engines their turn at every row count (three passes in a row, the first dropped, the better of
the others counted), so that ratios come from the same minutes; in one process, since both map the same file. A pass
computes the logits of M rows behind a context of 128 tokens. Resident memory is that of a process of our own that has
answered a prompt. Needs llama-cpp-python (built from source for this processor).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import geminate
from geminate import LLM, machine
from geminate.plan.batch import Batch, Rows
from geminate.tools.bench.ceilings import Ceilings
from geminate.tools.bench.step import filled_cache
from geminate.weights.specs import expected_tensors

CONTEXT = 128
RESIDENT = """
import sys
from geminate import LLM, SamplingParams
llm = LLM(sys.argv[1], drafter=None, threads=int(sys.argv[2]), max_context=1024)
llm.generate([[2, *range(1000, 1128)]], SamplingParams(max_tokens=32, temperature=0, ignore_eos=True))
fields = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="ascii"))
print(int(fields["VmRSS"].split()[0]) * 1024)
"""


class Ours:
    """Geminate."""

    def __init__(self, llm: LLM) -> None:
        self.target = llm.pair.target
        self.ceilings = Ceilings(self.target.backend)
        self._cache = filled_cache(self.target, CONTEXT)
        self._ids = np.random.default_rng(1).integers(1000, 200000, 64).astype(np.int32)

    def step(self, rows: int) -> float:
        """Milliseconds of a pass."""
        batch = Batch.of([Rows(cache=self._cache, ids=self._ids[:rows], wanted=rows)])
        began = time.perf_counter()
        self.target.forward(batch)
        return (time.perf_counter() - began) * 1e3


class Llama:
    """llama-cpp-python, through the library's own functions: no Python between the tokens of a pass."""

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.llama = llama_cpp.Llama(
            str(model), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False, logits_all=True
        )
        self.batch = llama_cpp.llama_batch_init(CONTEXT, 0, 1)
        self.ids = np.random.default_rng(1).integers(1000, 200000, CONTEXT).tolist()
        self._decode(0, CONTEXT)

    def _decode(self, start: int, count: int) -> float:
        batch, context = self.batch, self.llama.ctx
        batch.n_tokens = count
        for i in range(count):
            batch.token[i], batch.pos[i] = self.ids[i], start + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        began = time.perf_counter()
        code = self.api.llama_decode(context, batch)
        self.api.llama_synchronize(context)
        took = (time.perf_counter() - began) * 1e3
        if code:
            raise SystemExit(f"llama_decode of {count} tokens returned {code}")
        return took

    def step(self, rows: int) -> float:
        """Milliseconds of a pass."""
        took = self._decode(CONTEXT, rows)
        if not self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.llama.ctx), 0, CONTEXT, -1):
            raise SystemExit("llama.cpp cannot cut its cache back")
        return took


def stored_bytes(llm: LLM) -> tuple[int, int]:
    """Bytes of the matrices that a pass streams: as packed, and as the file has them."""
    target = llm.pair.target
    specs = [s for s in expected_tensors(target.config) if s.role in ("matrix", "embedding", "experts")]
    entries = target_entries(llm)
    return sum(target.store.tensor_bytes(s.name) for s in specs), sum(entries[s.name] for s in specs)


def target_entries(llm: LLM) -> dict[str, int]:
    """Stored bytes of every tensor by canonical name."""
    from geminate.families.registry import open_model

    return {name: entry.nbytes for name, entry in open_model(llm.pair.located.target).tensors.items()}


def measure(ours: Ours, other: Llama | None, rows: list[int], rounds: int) -> dict[str, Any]:
    """Interleaved timings; medians, ratios inside a round."""
    engines: dict[str, Any] = {"geminate": ours} | ({} if other is None else {"llama_cpp": other})
    steps: dict[str, dict[int, list[float]]] = {name: {m: [] for m in rows} for name in engines}
    bandwidth = []
    for _ in range(rounds):
        bandwidth.append(ours.ceilings.bandwidth())
        for m in rows:
            for name, engine in engines.items():
                time.sleep(0.02)  # the last one's threads go to sleep
                steps[name][m].append(min([engine.step(m) for _ in range(3)][1:]))
    median, own = statistics.median, steps["geminate"]
    found: dict[str, Any] = {"bandwidth_gbps": round(median(bandwidth) / 1e9, 1)}
    for name, by_rows in steps.items():
        found[name] = {
            "step_ms": {str(m): round(median(t), 2) for m, t in by_rows.items()},
            "ratio": {str(m): round(median(a / b for a, b in zip(t, by_rows[rows[0]], strict=True)), 3)
                      for m, t in by_rows.items()},
            "times_ours": {str(m): round(median(b / a for a, b in zip(own[m], t, strict=True)), 3)
                           for m, t in by_rows.items()},
        }  # fmt: skip
    return found


def main() -> int:
    """Measure and print; one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", default="1,2,3,5,8")
    parser.add_argument("--no-llama-cpp", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    llm = LLM(str(args.model), drafter=None, threads=args.threads, max_context=1024)
    ours = Ours(llm)
    other = None if args.no_llama_cpp else Llama(args.model, args.threads)
    packed, stored = stored_bytes(llm)
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(args.model), str(args.threads)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    result = {
        "benchmark": "kquants", "machine": machine.describe(), "version": geminate.__version__,
        "llama_cpp_python": None if other is None else other.api.__version__, "threads": args.threads,
        "isa": llm.pair.target.backend.isa, "model": args.model.name, "file_bytes": args.model.stat().st_size,
        "formats": llm.pair.target.store.bytes_by_format(), "streamed_bytes": packed, "stored_bytes": stored,
        "streamed_over_stored": round(packed / stored, 4), "resident_bytes": int(done.stdout),
        **measure(ours, other, [int(m) for m in args.rows.split(",")], args.rounds),
    }  # fmt: skip
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
