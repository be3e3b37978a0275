"""Write trained checkpoints in the Hugging Face layout, atomically, as the package's embedded pair.

Usage: python training/export.py --target DIR --tokenizer DIR [--drafter DIR] --out src/geminate/assets/embedded
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import hf_config, load_target

TARGET_GENERATION = {
    "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1, 106, 50],
    "do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95,
}  # fmt: skip
DRAFTER_GENERATION = {
    "is_assistant": True, "num_assistant_tokens": 4, "num_assistant_tokens_schedule": "constant",
}  # fmt: skip


def write_model(
    directory: Path, state: dict[str, torch.Tensor], config: dict[str, object], generation: dict[str, object]
) -> None:
    """config.json, generation_config.json and a bfloat16 model.safetensors, via a temporary directory."""
    new = directory.with_name(directory.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    tensors = {name: (t.to(torch.bfloat16) if t.is_floating_point() else t).contiguous() for name, t in state.items()}
    save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    (new / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner reads
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (new / name).write_text(json.dumps(value, indent=2) + "\n")
    old = directory.with_name(directory.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Export what is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("build/training/target"))
    parser.add_argument("--tokenizer", type=Path, default=Path("build/training/tokenizer"))
    parser.add_argument("--drafter", type=Path, help="checkpoint directory of train_drafter.py")
    parser.add_argument("--out", type=Path, default=Path("src/geminate/assets/embedded"))
    args = parser.parse_args()
    if not (args.target / "model.pt").exists():
        print(f"missing: {args.target / 'model.pt'}; run train_target.py first", file=sys.stderr)
        return 2
    model = load_target(args.target)
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / "target"
    write_model(target, model.state_dict(), hf_config(model.s), TARGET_GENERATION)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(args.tokenizer / name, target / name)
    if args.drafter is not None:
        state = torch.load(args.drafter / "drafter.pt", weights_only=True)
        config = json.loads((args.drafter / "config.json").read_text())
        write_model(args.out / "drafter", state, config, DRAFTER_GENERATION)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
