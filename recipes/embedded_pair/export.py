"""Write the trained target in the Hugging Face layout, atomically, as the package's embedded target.

Usage: python recipes/embedded_pair/export.py --target DIR --tokenizer DIR --out src/geminate/assets/embedded/target
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from geminate.tools.train.checkpoint import save_model
from model import hf_config, load_target

TARGET_GENERATION = {
    "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1, 106, 50],
    "do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95,
}  # fmt: skip


def main() -> int:
    """Export what is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("build/embedded_pair/target"))
    parser.add_argument("--tokenizer", type=Path, default=Path("build/embedded_pair/tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("src/geminate/assets/embedded/target"))
    args = parser.parse_args()
    if not (args.target / "model.pt").exists():
        print(f"missing: {args.target / 'model.pt'}; run train_target.py first", file=sys.stderr)
        return 2
    model = load_target(args.target)
    save_model(args.out, model.state_dict(), hf_config(model.s), TARGET_GENERATION)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(args.tokenizer / name, args.out / name)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
