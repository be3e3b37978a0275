"""Train the target within a wall-clock budget; stop and resume at will.

Usage: python recipes/embedded_pair/train_target.py --corpus DIR --tokenizer DIR --out DIR --minutes 55
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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/embedded_pair/corpus"))
    parser.add_argument("--tokenizer", type=Path, default=Path("build/embedded_pair/tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("build/embedded_pair/target"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--tokens-per-step", type=int, default=8192)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class Run:
    """A training run: model, optimizers, and where it stands; everything of it is in the checkpoint."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = Target(PRESETS[args.preset]).to(args.device)
        matrices, self.rest = split_parameters(self.model)
        self.optimizers = [
            Muon(matrices, lr=args.muon_lr),
            torch.optim.AdamW(self.rest, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self.rates = [args.muon_lr, args.adam_lr]
        self.loss_of = torch.compile(self.model.loss, dynamic=False) if args.compile else self.model.loss
        self.step, self.spent, self.rng = 0, 0.0, random.Random(args.seed)
        self.checkpoint = args.out / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.args.device, weights_only=False)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.spent = state["step"], state["spent"]
        self.rng.setstate(state["rng"])
        print(f"resumed at step {self.step}, {self.spent / 60:.1f} minutes spent", flush=True)

    def update(self, train: np.ndarray, share: float) -> tuple[int, float]:
        """One step at ``share`` of the budget; its tokens and loss."""
        # The last sixth sees longer windows, so that positions past 512 are trained too.
        length = 1024 if share > 0.84 else 512
        ids = batch_of(train, self.args.tokens_per_step // length, length, self.rng).to(self.args.device)
        with torch.autocast(self.args.device, dtype=torch.bfloat16):
            loss = self.loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return ids.shape[0] * length, loss.item()

    def save(self) -> None:
        """Write the checkpoint and the weights alone."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "spent": self.spent,
            "rng": self.rng.getstate(),
        }
        save(self.checkpoint, state)
        save(self.args.out / "model.pt", self.model.state_dict())


def main() -> int:
    """Train until the budget is spent; the time already spent is part of the checkpoint."""
    args = arguments()
    for path in (args.corpus / "train.jsonl", args.tokenizer / "tokenizer.json"):
        if not path.exists():
            print(f"missing: {path}", file=sys.stderr)
            return 2
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    save_shape(PRESETS[args.preset], args.out)
    train = tokens_of(args.corpus, args.tokenizer, "train", args.out)
    held_out = tokens_of(args.corpus, args.tokenizer, "held_out", args.out)
    run = Run(args)
    print(f"{len(train):,} training tokens; parameters {parameters_by_kind(run.model)}", flush=True)
    run.resume()
    budget, last, smooth, seen = args.minutes * 60, time.time(), 0.0, 0
    report_at, save_at = time.time() + 30, time.time() + 240
    while run.spent < budget:
        tokens, loss = run.update(train, run.spent / budget)
        seen += tokens
        smooth = loss if smooth == 0.0 else 0.95 * smooth + 0.05 * loss
        now = time.time()
        run.spent, last = run.spent + now - last, now
        if now > report_at:
            rate_now = seen / (30 + now - report_at)
            print(f"step {run.step} {run.spent / 60:.1f} min loss {smooth:.3f} {rate_now:.0f} tokens/s", flush=True)
            report_at, seen = now + 30, 0
        if now > save_at or run.spent >= budget:
            print(f"held-out loss {held_out_loss(run.model, held_out, args.device):.4f}", flush=True)
            run.save()
            save_at = last = time.time()
            save_at += 240
    return 0


if __name__ == "__main__":
    sys.exit(main())
