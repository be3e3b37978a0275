"""Let the trained target continue prompts of its corpus: the drafter learns from the target's own text.

Usage: python training/generate_data.py --target src/geminate/assets/embedded/target --corpus DIR --out FILE.npz
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Gemma4ForCausalLM

OPEN = "<|turn>model\n"


def prompts_of(corpus: Path, tokenizer: Tokenizer, count: int, longest: int, rng: random.Random) -> list[list[int]]:
    """Token ids of prompts: conversations cut before a model turn, plain documents cut after some words."""
    lines = (corpus / "train.jsonl").read_text().splitlines()
    prompts: list[list[int]] = []
    while len(prompts) < count:
        text = json.loads(rng.choice(lines))
        cuts = [i + len(OPEN) for i in range(len(text)) if text.startswith(OPEN, i)]
        cut = rng.choice(cuts[:3]) if cuts else rng.randrange(10, max(11, min(160, len(text))))
        ids = tokenizer.encode(text[:cut], add_special_tokens=False).ids
        if len(ids) <= longest:
            prompts.append(ids)
    return prompts


def main() -> int:
    """Write ``ids`` uint16 [n, length] (0-padded) and ``sizes`` int32 [n, 2] (prompt, whole)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("src/geminate/assets/embedded/target"))
    parser.add_argument("--corpus", type=Path, default=Path("build/training/corpus"))
    parser.add_argument("--out", type=Path, default=Path("build/training/continuations.npz"))
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--longest-prompt", type=int, default=160)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--greedy", type=float, default=0.7, help="share of batches decoded greedily")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for path in (args.target / "model.safetensors", args.corpus / "train.jsonl"):
        if not path.exists():
            print(f"missing: {path}", file=sys.stderr)
            return 2
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = Tokenizer.from_file(str(args.target / "tokenizer.json"))
    model = Gemma4ForCausalLM.from_pretrained(args.target, dtype=torch.bfloat16).to(args.device).eval()
    prompts = prompts_of(args.corpus, tokenizer, args.count, args.longest_prompt, rng)
    prompts.sort(key=len)  # little padding within a batch
    batches = [prompts[i : i + args.batch] for i in range(0, len(prompts), args.batch)]
    rng.shuffle(batches)
    length = args.longest_prompt + args.new_tokens
    rows: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    started = time.time()
    for number, batch in enumerate(batches):
        width = max(len(p) for p in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, p in enumerate(batch):
            ids[i, width - len(p) :] = torch.tensor(p)
            mask[i, width - len(p) :] = 1
        sample = number >= args.greedy * len(batches)
        choice = {"do_sample": True, "temperature": 0.8, "top_k": 64} if sample else {"do_sample": False}
        with torch.no_grad():
            # Running on past the end of a turn keeps rows equally long; the cut below removes it.
            out = (
                model.generate(
                    ids.to(args.device),
                    attention_mask=mask.to(args.device),
                    max_new_tokens=args.new_tokens,
                    eos_token_id=1,
                    pad_token_id=0,
                    **choice,
                )
                .cpu()
                .numpy()
            )
        for i, p in enumerate(batch):
            own = out[i, width - len(p) :]
            ends = np.flatnonzero(own[len(p) :] == 106)
            if len(ends):
                own = own[: len(p) + ends[0] + 1]
            row = np.zeros(length, dtype=np.uint16)
            row[: len(own)] = own
            rows.append(row)
            sizes.append((len(p), len(own)))
        done = sum(whole - prompt for prompt, whole in sizes)
        print(f"{number + 1}/{len(batches)} batches, {done} tokens, {time.time() - started:.0f} s", flush=True)
        np.savez(args.out, ids=np.stack(rows), sizes=np.array(sizes, dtype=np.int32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
