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

from geminate.tools.train.checkpoint import GENERATION, save_model
from model import hf_config, load_target

TARGET_GENERATION = {
    "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1, 106, 50],
    "do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95,
}  # fmt: skip


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
    save_model(target, model.state_dict(), hf_config(model.s), TARGET_GENERATION)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(args.tokenizer / name, target / name)
    if args.drafter is not None:
        state = torch.load(args.drafter / "drafter.pt", weights_only=True)
        config = json.loads((args.drafter / "config.json").read_text())
        save_model(args.out / "drafter", state, config, GENERATION)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
