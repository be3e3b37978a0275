"""Start and memory of a real E2B in int4: from the packed cache to the first token, and what is resident then.

Usage: python benchmarks/start.py --dir DIR [--json FILE]

The first run writes a pair of the E2B shape with random bf16 weights into DIR (10 GB) and packs it; both stay there.
Measured are fresh processes: seconds from the interpreter's start to the first token of a 16-token prompt, with the
page cache warm, with and without --prefault; and resident memory after 64 tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from geminate import machine
from geminate.families.registry import load_assistant_config, load_target_config
from geminate.tools.bench.random_weights import streamed_bytes
from geminate.tools.bench.shapes import drafter_dict, target_dict
from geminate.weights.specs import TensorSpec, expected_tensors

CHILD = """
import json, sys, time
began = time.perf_counter()
from geminate import LLM, SamplingParams
llm = LLM(sys.argv[1], weights="int4", threads=2, cache_dir=sys.argv[2], prefault=sys.argv[3] == "1")
loaded = time.perf_counter()
params = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
first = None
for delta in llm.stream(list(range(5, 21)), params, speculation=sys.argv[4]):
    first = first or time.perf_counter()
lines = [l for l in open("/proc/self/status") if l.startswith(("RssAnon", "RssFile", "VmRSS"))]
status = {l.split(":")[0]: int(l.split()[1]) * 1024 for l in lines}
cache = llm.pair.target.new_cache()
kinds, own = llm.pair.target.store.bytes_by_kind(), llm.pair.drafter.store.bytes_by_kind()
print(json.dumps({"load_s": loaded - began, "first_token_s": first - began, "status": status, "kv": cache.nbytes,
                  "target": sum(kinds.values()) - kinds["row_table"], "drafter": sum(own.values())}))
"""


def write_model(path: Path, config: dict[str, object], specs: list[TensorSpec]) -> None:
    """A checkpoint of random bf16 weights, written tensor by tensor."""
    path.mkdir(parents=True)
    header: dict[str, object] = {}
    at = 0
    for spec in specs:
        name = f"model.{spec.name}" if spec.name.endswith("layer_scalar") else f"model.{spec.name}.weight"
        if spec.name.startswith(("masked", "pre_", "post_")) and "layers" not in spec.name:
            name = spec.name if spec.role == "order" else f"{spec.name}.weight"
        size = int(np.prod(spec.shape)) * (8 if spec.role == "order" else 2)
        header[name] = {
            "dtype": "I64" if spec.role == "order" else "BF16",
            "shape": list(spec.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    raw = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 1 << 16, 1 << 24).astype(np.uint16) & 0x807F) | 0x3C80
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for spec in specs:
            count = int(np.prod(spec.shape))
            if spec.role == "order":
                file.write(rng.permutation(count).astype("<i8").tobytes())
                continue
            for start in range(0, count, len(noise)):
                file.write(noise[: min(len(noise), count - start)].tobytes())
    (path / "config.json").write_text(json.dumps(config))


def child(directory: Path, prefault: bool, speculation: str = "4") -> dict[str, float]:
    """One fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(directory / "e2b"), str(directory / "cache"), str(int(prefault)), speculation]
        ,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    target, assistant = target_dict("gemma-4-E2B"), drafter_dict("gemma-4-E2B")
    config, drafter = load_target_config(target), load_assistant_config(assistant)
    if not (args.dir / "e2b").exists():
        write_model(args.dir / "e2b-assistant", assistant, expected_tensors(drafter))
        write_model(args.dir / "e2b", target, expected_tensors(config))
    child(args.dir, True)  # packs, and warms the page cache
    runs = {mode: [child(args.dir, mode == "prefault") for _ in range(args.repeats)] for mode in ("plain", "prefault")}
    last = runs["prefault"][-1]
    allowed = last["target"] + last["drafter"] + last["kv"] + 200e6
    resident = last["status"]["VmRSS"]  # type: ignore[index]
    result = {
        "benchmark": "start", "machine": machine.describe(), "repeats": args.repeats,
        "first_token_s": {m: round(statistics.median(r["first_token_s"] for r in rs), 2) for m, rs in runs.items()},
        "load_s": {m: round(statistics.median(r["load_s"] for r in rs), 2) for m, rs in runs.items()},
        "resident_mb": round(resident / 1e6), "allowed_mb": round(allowed / 1e6),
        "status_mb": {k: round(v / 1e6) for k, v in last["status"].items()},  # type: ignore[attr-defined]
        "target_mb": round(last["target"] / 1e6), "drafter_mb": round(last["drafter"] / 1e6),
        "kv_mb": round(last["kv"] / 1e6), "streamed_mb": round(streamed_bytes(config, "int4") / 1e6),
    }  # fmt: skip
    print(f"machine  {result['machine']}")
    print(
        f"first token after {result['first_token_s']} s (limit 2.5), resident {result['resident_mb']} MB "
        f"(allowed {result['allowed_mb']})"
    )
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
