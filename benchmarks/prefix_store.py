"""First token of a long prompt after a restart, with and without a prefix store.

Usage: python benchmarks/prefix_store.py [--dir DIR] [--tokens 8256] [--repeats 5] [--json FILE]

With --dir a pair of the E2B shape with random weights in int4, which `benchmarks/start.py --dir DIR` writes there (10
GB); without, the embedded pair and a prompt that fits it. Every figure is of a fresh process whose weights are in the
page cache: seconds from the request to the first token. "without": everything is computed. "first": the same, and the
blocks are stored. "with": they are read. All three must give the same tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from geminate import machine

CHILD = """
import json, os, random, sys, time
began = time.perf_counter()
from geminate import LLM, SamplingParams
model, cache, store, tokens = sys.argv[1:5]
llm = LLM(model or None, weights="int4" if model else "auto", threads=2, cache_dir=cache or None,
          prefix_store=store or None, prefix_store_bytes="16GiB", prefault=True)
llm.measure_costs()
rng = random.Random(1)
prompt = [rng.randrange(300, 8000) for _ in range(int(tokens))]
loaded = time.perf_counter()
params = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
first, ids = None, []
for delta in llm.stream(prompt, params):
    first = first or time.perf_counter()
    ids += delta.token_ids
stats = delta.output.stats
ended = time.perf_counter()
llm.close()
print(json.dumps({"load_s": loaded - began, "first_token_s": first - loaded, "close_s": time.perf_counter() - ended,
                  "reused": stats.reused_tokens, "ids": ids, "block_bytes": llm.pair.target.kv.block_bytes}))
"""


def child(directory: Path | None, store: Path | None, tokens: int) -> dict[str, Any]:
    """One fresh process."""
    model, cache = ("", "") if directory is None else (str(directory / "e2b"), str(directory / "cache"))
    command = [sys.executable, "-c", CHILD, model, cache, "" if store is None else str(store), str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dir", type=Path, help="where benchmarks/start.py wrote the E2B shape; default: embedded pair"
    )
    parser.add_argument("--tokens", type=int, help="of the prompt; default: 8,256, or 1,984 for the embedded pair")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.dir is not None and not (args.dir / "e2b").exists():
        parser.error(f"{args.dir} has no model; run benchmarks/start.py --dir {args.dir} first")
    tokens = args.tokens or (1_984 if args.dir is None else 8_256)
    store = Path(tempfile.mkdtemp(prefix="prefixes-", dir=args.dir))
    try:
        without = child(args.dir, None, tokens)
        first = child(args.dir, store, tokens)
        runs = [child(args.dir, store, tokens) for _ in range(args.repeats)]
        size = sum(file.stat().st_size for file in store.glob("*/*.kv"))
    finally:
        shutil.rmtree(store)
    same = all(run["ids"] == without["ids"] for run in (first, *runs))
    result = {
        "benchmark": "prefix_store", "machine": machine.describe(), "model": "embedded" if args.dir is None else "e2b",
        "tokens": tokens, "repeats": args.repeats, "identical": same,
        "first_token_s": {
            "without": round(without["first_token_s"], 3),
            "first": round(first["first_token_s"], 3),
            "with": round(statistics.median(run["first_token_s"] for run in runs), 3),
        },
        "reused": min(run["reused"] for run in runs), "store_mb": round(size / 1e6, 1),
        "close_after_first_s": round(first["close_s"], 3), "limit_s": 0.5,
    }  # fmt: skip
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
