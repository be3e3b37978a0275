"""Start and memory of E2B in int4, or as its checkpoint for devices: from the packed cache to the first token.

Usage: python benchmarks/start.py --dir DIR [--weights int4|mobile] [--context 0] [--json FILE]

The first run writes a pair of the E2B shape with random weights into DIR (int4: bf16, 10 GB; mobile: 2 GB) and packs
it; both stay there. Measured are fresh processes: seconds from the interpreter's start to the first token of a 16-token
prompt, with the page cache warm, with and without --prefault; and resident memory after 64 tokens, behind --context
further tokens if there are any.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geminate import machine
from geminate.families.registry import load_assistant_config, load_target_config
from geminate.formats.table import FORMATS
from geminate.plan.config import TargetConfig
from geminate.tools.bench.random_weights import streamed_bytes
from geminate.tools.bench.shapes import drafter_dict, target_dict
from geminate.weights.presets import CHOSEN_ROLES, mobile_format, mobile_scales
from geminate.weights.specs import TensorSpec, expected_tensors

CHILD = """
import json, sys, time
began = time.perf_counter()
from geminate import LLM, SamplingParams
llm = LLM(sys.argv[1], weights=sys.argv[5], threads=2, cache_dir=sys.argv[2], prefault=sys.argv[3] == "1")
loaded = time.perf_counter()
params = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
first = None
for delta in llm.stream(list(range(5, 21)), params, speculation=sys.argv[4]):
    first = first or time.perf_counter()
context = int(sys.argv[6])
if context:
    for delta in llm.stream(list(range(5, 5 + context)), params, speculation=sys.argv[4]):
        pass
lines = [l for l in open("/proc/self/status") if l.startswith(("RssAnon", "RssFile", "VmRSS"))]
status = {l.split(":")[0]: int(l.split()[1]) * 1024 for l in lines}
cache = llm.pair.target.new_cache()
kinds, own = llm.pair.target.store.bytes_by_kind(), llm.pair.drafter.store.bytes_by_kind()
print(json.dumps({"load_s": loaded - began, "first_token_s": first - began, "status": status, "kv": cache.nbytes,
                  "target": sum(kinds.values()) - kinds["row_table"], "drafter": sum(own.values())}))
"""


# Seconds to the first token, and bytes beside the drafter; None: of the weights, keys and values and 200 MB.
LIMITS: dict[str, tuple[float, float | None]] = {"int4": (2.5, None), "mobile": (0.8, 0.9e9)}
Array = np.ndarray[Any, Any]
SIZES = {"BF16": 2, "F32": 4, "U8": 1, "I8": 1, "I64": 8}


@dataclass(frozen=True)
class Stored:
    """A tensor of a file that is written: all ``value``, a random order, or noise (None)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    value: float | str | None = None


def plain(spec: TensorSpec) -> list[Stored]:
    """How a bf16 checkpoint stores a tensor."""
    if spec.role == "order":
        return [Stored(spec.name, "I64", spec.shape, "order")]
    name = f"model.{spec.name}" if spec.name.endswith("layer_scalar") else f"model.{spec.name}.weight"
    if spec.name.startswith(("masked", "pre_", "post_", "lm_head")) and "layers" not in spec.name:
        name = f"{spec.name}.weight"
    return [Stored(name, "BF16", spec.shape)]


def for_devices(spec: TensorSpec, config: TargetConfig) -> list[Stored]:
    """How a checkpoint for devices stores it: codes, and scales for weights and activations."""
    if spec.role not in (*CHOSEN_ROLES, "row_table"):
        return plain(spec)
    fmt = FORMATS["q2r" if spec.name == "embed_tokens" else mobile_format(spec, config)]
    if not fmt.row_scaled:
        return plain(spec)
    (n, k), bits = spec.shape, fmt.bits
    module = plain(spec)[0].name.removesuffix(".weight")
    codes = ("I8", (n, k)) if bits == 8 else ("U8", (n, k * bits // 8))
    if spec.role == "row_table" or spec.name == "embed_tokens":
        return [
            Stored(f"{module}.embedding_quantized", *codes),
            Stored(f"{module}.embedding_scale", "F32", (n, 1), 0.01),
        ]
    scales = zip(("input_activation_scale", "output_activation_scale"), mobile_scales(spec), strict=True)
    return [
        Stored(f"{module}.weight", *codes),
        Stored(f"{module}.weight_scale", "F32", (n, 1), 0.01),
        *(Stored(f"{module}.{name}", "F32", (), value) for name, value in scales),
    ]


def write_model(path: Path, config: dict[str, Any], tensors: list[Stored]) -> None:
    """A checkpoint of random weights, written tensor by tensor."""
    path.mkdir(parents=True)
    header: dict[str, object] = {}
    at = 0
    for one in tensors:
        size = int(np.prod(one.shape)) * SIZES[one.dtype]
        header[one.name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 16, 1 << 24).astype(np.uint16)
    noise = {"BF16": (words & 0x807F) | 0x3C80, "U8": words.view(np.uint8), "I8": words.view(np.uint8)}
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for one in tensors:
            count = int(np.prod(one.shape))
            if one.value == "order":
                file.write(rng.permutation(count).astype("<i8").tobytes())
            elif one.value is not None:
                file.write(np.full(count, one.value, np.float32).tobytes())
            else:
                made: Array = noise[one.dtype]
                for start in range(0, count, len(made)):
                    file.write(made[: min(len(made), count - start)].tobytes())
    (path / "config.json").write_text(json.dumps(config))


QUANTIZATION = {
    "quant_method": "gemma", "num_bits": 4, "quantize_embeddings": True,
    "module_quant_configs": {
        "^lm_head$": {"num_bits": 2}, r"model\.embed_tokens$": {"num_bits": 2},
        r"layers\.([0-9]|1[0-4])\.mlp\.": {"num_bits": 4}, r"layers\.\d+\.mlp\.": {"num_bits": 2},
        r"layers\.\d+\.per_layer_": {"num_bits": 8},
    },
    "modules_to_not_convert": ["per_layer_model_projection"],
}  # fmt: skip


def write_pair(directory: Path, weights: str) -> Path:
    """The pair of the E2B shape, unless it is there; the target's directory."""
    made, drafter = directory / f"e2b-{weights}", directory / f"e2b-{weights}-assistant"
    if not made.exists():
        raw, own = target_dict("gemma-4-E2B"), drafter_dict("gemma-4-E2B")
        if weights == "mobile":
            raw |= {"tie_word_embeddings": False, "quantization_config": QUANTIZATION}
        config = load_target_config(raw)
        specs = expected_tensors(config)
        stored = [t for s in specs for t in (for_devices(s, config) if weights == "mobile" else plain(s))]
        write_model(drafter, own, [t for s in expected_tensors(load_assistant_config(own)) for t in plain(s)])
        write_model(made, raw, stored)
    return made


def child(target: Path, args: argparse.Namespace, prefault: bool, speculation: str = "4") -> dict[str, Any]:
    """One fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(target), str(args.dir / "cache"), str(int(prefault)), speculation,
         args.weights, str(args.context)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--weights", choices=("int4", "mobile"), default="int4")
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    target = write_pair(args.dir, args.weights)
    child(target, args, True)  # packs, and warms the page cache
    runs = {
        mode: [child(target, args, mode == "prefault") for _ in range(args.repeats)] for mode in ("plain", "prefault")
    }
    last = runs["prefault"][-1]
    seconds, memory = LIMITS[args.weights]
    allowed = last["drafter"] + (memory or last["target"] + last["kv"] + 200e6)
    resident = last["status"]["VmRSS"]
    streamed = streamed_bytes(load_target_config(json.loads((target / "config.json").read_text())), args.weights)
    result = {
        "benchmark": "start", "machine": machine.describe(), "weights": args.weights, "context": args.context,
        "repeats": args.repeats,
        "first_token_s": {m: round(statistics.median(r["first_token_s"] for r in rs), 2) for m, rs in runs.items()},
        "load_s": {m: round(statistics.median(r["load_s"] for r in rs), 2) for m, rs in runs.items()},
        "resident_mb": round(resident / 1e6), "allowed_mb": round(allowed / 1e6),
        "status_mb": {k: round(v / 1e6) for k, v in last["status"].items()},
        "target_mb": round(last["target"] / 1e6), "drafter_mb": round(last["drafter"] / 1e6),
        "kv_mb": round(last["kv"] / 1e6), "streamed_mb": round(streamed / 1e6),
    }  # fmt: skip
    print(f"machine  {result['machine']}")
    print(
        f"first token after {result['first_token_s']} s (limit {seconds}), resident {result['resident_mb']} MB "
        f"(allowed {result['allowed_mb']})"
    )
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
