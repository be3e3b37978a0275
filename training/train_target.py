"""Train the target within a wall-clock budget; stop and resume at will.

Usage: python training/train_target.py --corpus DIR --tokenizer DIR --out DIR --minutes 55
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from model import PRESETS, Target, parameters_by_kind, save_shape
from optim import Muon, schedule, split_parameters


def tokens_of(corpus: Path, tokenizer: Path, split: str, cache: Path) -> np.ndarray:
    """The split as one stream of uint16 ids, documents shuffled as prepared; cached as .npy."""
    path = cache / f"{split}.npy"
    if not path.exists():
        encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        lines = (corpus / f"{split}.jsonl").read_text().splitlines()
        batches = [lines[i : i + 4096] for i in range(0, len(lines), 4096)]
        encoded = [
            e.ids
            for batch in batches
            for e in encoder.encode_batch([json.loads(x) for x in batch], add_special_tokens=False)
        ]
        np.save(path, np.concatenate([np.array(ids, dtype=np.uint16) for ids in encoded]))
    return np.load(path)


def batch_of(stream: np.ndarray, rows: int, length: int, rng: random.Random) -> torch.Tensor:
    """Random windows, int64 [rows, length + 1]."""
    starts = [rng.randrange(len(stream) - length - 1) for _ in range(rows)]
    windows = np.stack([stream[s : s + length + 1] for s in starts])
    return torch.from_numpy(windows.astype(np.int64))


@torch.no_grad()
def held_out_loss(model: Target, stream: np.ndarray, device: str) -> float:
    """Mean loss over fixed windows."""
    rng = random.Random(0)
    with torch.autocast(device, dtype=torch.bfloat16):
        losses = [model.loss(batch_of(stream, 8, 512, rng).to(device)).item() for _ in range(6)]
    return sum(losses) / len(losses)


def save(path: Path, state: dict[str, object]) -> None:
    """Write atomically: a killed run leaves the last whole checkpoint."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> int:
    """Train until the budget is spent; the time already spent is part of the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/training/corpus"))
    parser.add_argument("--tokenizer", type=Path, default=Path("build/training/tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("build/training/target"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--tokens-per-step", type=int, default=8192)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for path in (args.corpus / "train.jsonl", args.tokenizer / "tokenizer.json"):
        if not path.exists():
            print(f"missing: {path}", file=sys.stderr)
            return 2
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    shape = PRESETS[args.preset]
    save_shape(shape, args.out)
    train = tokens_of(args.corpus, args.tokenizer, "train", args.out)
    held_out = tokens_of(args.corpus, args.tokenizer, "held_out", args.out)
    model = Target(shape).to(args.device)
    print(f"{len(train):,} training tokens; parameters {parameters_by_kind(model)}", flush=True)
    matrices, rest = split_parameters(model)
    optimizers = [
        Muon(matrices, lr=args.muon_lr),
        torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    rates = [args.muon_lr, args.adam_lr]
    step, spent, rng = 0, 0.0, random.Random(args.seed)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent = state["step"], state["spent"]
        rng.setstate(state["rng"])
        print(f"resumed at step {step}, {spent / 60:.1f} minutes spent", flush=True)
    loss_of = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    budget, last, smooth = args.minutes * 60, time.time(), 0.0
    report_at, save_at = time.time() + 30, time.time() + 240
    seen = 0
    while spent < budget:
        share = spent / budget
        # The last sixth sees longer windows, so that positions past 512 are trained too.
        length = 1024 if share > 0.84 else 512
        ids = batch_of(train, args.tokens_per_step // length, length, rng).to(args.device)
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        seen += ids.shape[0] * length
        smooth = loss.item() if smooth == 0.0 else 0.95 * smooth + 0.05 * loss.item()
        now = time.time()
        spent, last = spent + now - last, now
        if now > report_at:
            rate_now = seen / (30 + now - report_at)
            print(f"step {step} {spent / 60:.1f} min loss {smooth:.3f} {rate_now:.0f} tokens/s", flush=True)
            report_at, seen = now + 30, 0
        if now > save_at or spent >= budget:
            print(f"held-out loss {held_out_loss(model, held_out, args.device):.4f}", flush=True)
            save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step,
                    "spent": spent,
                    "rng": rng.getstate(),
                },
            )
            save(args.out / "model.pt", model.state_dict())
            save_at = last = time.time()
            save_at += 240
    return 0


if __name__ == "__main__":
    sys.exit(main())
