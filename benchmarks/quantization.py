"""What weight formats cost on a model and a held-out text, and what `geminate quantize` wins back; one JSON object.

Usage:
    python benchmarks/quantization.py --corpus build/embedded_pair/corpus --work build/quantization --json FILE \
        [--model M]

``--model`` is a directory or a GGUF file; without it the embedded pair. Two texts that share nothing are made from the
corpus of the embedded pair (its train and held-out parts) and the Python standard library: one to calibrate with, one
to score on. A GGUF file is first turned into plain bf16 weights, since a file's own head would stay in int8.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geminate import machine
from geminate.backends.select import make_backend
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.families.gemma4.dialect import DIALECT
from geminate.families.registry import load_target_config, open_model
from geminate.formats.rounding import f32_to_bf16
from geminate.loading.compile import compile_target
from geminate.loading.load import locate
from geminate.plan.config import TargetConfig
from geminate.text.tokenizer import Tokenizer
from geminate.text.windows import windows
from geminate.tools.evaluate.run import evaluate
from geminate.tools.evaluate.score import CHUNK, compare
from geminate.tools.quantize.run import quantize_model
from geminate.tools.quantize.writer import Planned, write_safetensors
from geminate.weights.opening import open_weights
from geminate.weights.presets import CHOSEN_ROLES
from geminate.weights.specs import expected_tensors

MODULES = {"calibration": ("heapq.py", "textwrap.py", "fnmatch.py"), "held_out": ("bisect.py", "shelve.py")}
MARKS = re.compile(r"<bos>|<eos>|<\|turn>(user|model|system)?\n?|<turn\|>")


def text_of(part: str, corpus: Path, characters: int, mix: int) -> str:
    """A text of corpus documents and modules, in chunks of random order: any prefix holds a bit of everything."""
    file = corpus / {"calibration": "train.jsonl", "held_out": "held_out.jsonl"}[part]
    documents = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    random.Random(mix).shuffle(documents)
    pieces, size = [], 0
    for document in documents:
        if "<|tool" in document or '<|"|>' in document:
            continue
        plain = MARKS.sub("", document).strip()
        if len(plain) >= 150:
            pieces.append(plain)
            size += len(plain)
        if size > characters:
            break
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in MODULES[part]:
        source = (library / name).read_text(encoding="utf-8")
        pieces += [source[i : i + 3000] for i in range(0, len(source), 3000)]
    random.Random(mix).shuffle(pieces)
    return "\n\n".join(pieces)


def as_bf16(source: Path, out: Path) -> Path:
    """The weights of a GGUF file as an ordinary bf16 checkpoint."""
    if out.exists():
        return out
    config, entries = load_target_config(source), open_model(source).tensors
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    specs = {f"model.{s.name}.weight": s for s in expected_tensors(config)}

    def values(name: str) -> np.ndarray:
        spec = specs[name]
        entry = entries[spec.name]
        rows = entry.rows(0, entry.shape[0])
        whole = spec.unit_offset and entry.whole_norm
        return rows - np.float32(1) if whole else f32_to_bf16(rows) if len(spec.shape) > 1 else rows

    planned = {n: Planned(dtype="BF16" if len(s.shape) > 1 else "F32", shape=s.shape) for n, s in specs.items()}
    write_safetensors(new / "model.safetensors", planned, ((name, iter([values(name)])) for name in specs))
    (new / "config.json").write_text(json.dumps(dict(dict(open_model(source).raw))), encoding="utf-8")
    tokenizer = Tokenizer.load(Checkpoint.open(source), DIALECT)
    assert tokenizer is not None
    tokenizer.save(new)
    new.rename(out)
    return out


def choices(config: TargetConfig) -> dict[str, Callable[[str], bool]]:
    """What int4+ could keep in int8, as tests of a canonical name."""
    ends = (f"layers.{config.layers[0].index}.", f"layers.{config.layers[-1].index}.")

    def head(name: str) -> bool:
        return name == "embed_tokens"

    def kinds(*which: str) -> Callable[[str], bool]:
        return lambda name: name.endswith(which)

    key_value = kinds("k_proj", "v_proj")
    return {
        "nothing (int4)": lambda name: False,
        "k, v": key_value,
        "head": head,
        "head, v": lambda n: head(n) or kinds("v_proj")(n),
        "head, k, v": lambda n: head(n) or key_value(n),
        "head, first and last layer": lambda n: head(n) or n.startswith(ends),
        "head, k, v, first and last layer (int4+)": lambda n: head(n) or key_value(n) or n.startswith(ends),
        "head, attention": lambda n: head(n) or ".self_attn." in n,
        "head, k, v, down": lambda n: head(n) or key_value(n) or n.endswith("down_proj"),
        "head, k, v, up, down": lambda n: head(n) or key_value(n) or n.endswith(("up_proj", "down_proj")),
        "everything (int8)": lambda name: True,
    }


def mixtures(model: Path, text: str, context: int, most: int, threads: int | None) -> list[dict[str, Any]]:
    """Score every choice of `choices`: int4 with those matrices in int8."""
    config, backend = load_target_config(model), make_backend(threads)
    tokenizer = Tokenizer.load(Checkpoint.open(model), DIALECT)
    assert tokenizer is not None
    parts = windows(tokenizer.encode(text, add_bos=False), tokenizer.bos_id, context, most)
    stores = {fmt: open_weights(open_model(model), config, fmt) for fmt in ("bf16", "int8", "int4")}  # type: ignore[arg-type]
    names = [s.name for s in expected_tensors(config) if s.role in CHOSEN_ROLES]
    kept = {what: frozenset(filter(test, names)) for what, test in choices(config).items()}
    mixed = {what: stores["int4"].replaced(some, stores["int8"]) for what, some in kept.items()}
    models = {what: compile_target(config, store, backend, max_rows=CHUNK) for what, store in mixed.items()}
    _, scores = compare(compile_target(config, stores["bf16"], backend, max_rows=CHUNK), models, parts)
    return [
        {"int8": what, "bytes": sum(mixed[what].tensor_bytes(n) for n in names), **scores[what].as_dict()}
        for what in mixed
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or GGUF file; default: the embedded pair")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the held-out text that are scored")
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--by-tensor", action="store_true", help="groups of tensors as well: takes long")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = locate(args.model, None).target
    if model.is_file():
        model = as_bf16(model, args.work / f"{model.stem}-bf16")
    held_out, calibration = text_of("held_out", args.corpus, 60_000, 2), text_of("calibration", args.corpus, 120_000, 1)
    options: dict[str, Any] = {"context": args.context, "max_tokens": args.tokens, "threads": args.threads}
    result: dict[str, Any] = {"benchmark": "quantization", "machine": machine.describe(), "context": args.context}
    plain = evaluate(
        model, held_out, ["int8", "int4+", "int4"], by_tensor="int4" if args.by_tensor else None, **options
    )
    result |= plain.as_dict()
    result["model"] = "embedded pair" if args.model is None else Path(args.model).stem
    del result["reference"]
    result["mixtures"] = mixtures(model, held_out, args.context, args.tokens, args.threads)
    result["quantized"] = []
    for fmt in ("int8", "int4+", "int4"):
        for how, text in (("searched", None), ("calibrated", calibration)):
            copy = args.work / f"{model.name}-{fmt}-{how}"
            shutil.rmtree(copy, ignore_errors=True)
            began = time.perf_counter()
            quantize_model(
                model,
                copy,
                fmt,
                calibration=text,
                calibration_tokens=args.calibration_tokens,
                context=args.context,
                threads=args.threads,
            )
            seconds = time.perf_counter() - began
            found = evaluate(copy, held_out, ["auto"], reference=model, **options)
            entry = {"weights": fmt, "how": how, "seconds": round(seconds, 1), **found.formats[0].as_dict()}
            result["quantized"].append(entry)
            print(json.dumps(entry), flush=True)
            shutil.rmtree(copy)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
