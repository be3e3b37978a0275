"""Fine-tune the embedded target on a domain of its own (`sql_domain`): what a user's fine-tune does to a drafter.

Usage: python recipes/embedded_pair/finetune_target.py --out DIR [--minutes 8]

Writes DIR/target (Hugging Face layout) and DIR/requests.jsonl (prompts of the domain that were not trained on).
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from export import TARGET_GENERATION
from geminate.cli.bars import Bars
from geminate.families.registry import open_model
from geminate.text.template import ChatTemplate
from geminate.text.tokenizer import Tokenizer
from geminate.tools.train.checkpoint import save_model
from geminate.tools.train.hardware import chosen_device
from model import PRESETS, Target, hf_config
from optim import schedule
from sql_domain import pairs

EMBEDDED = Path(__file__).parents[2] / "src" / "geminate" / "assets" / "embedded" / "target"
HELD_OUT = 800
BATCH = 16
RECENT = 20  # steps whose mean loss is shown


def main() -> int:
    """Train all weights with AdamW for a wall-clock budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=EMBEDDED)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    device = chosen_device(args.device)
    torch.manual_seed(args.seed)
    model = Target(PRESETS["small"])
    model.load_state_dict({k: v.float() for k, v in load_file(args.target / "model.safetensors").items()})
    model.to(device)
    source = open_model(args.target)
    tokenizer = Tokenizer.load(source.checkpoint, source.family.dialect)
    template = ChatTemplate.load(source.checkpoint, source.family.dialect)
    assert tokenizer is not None and template is not None
    source = pairs(args.seed)
    held_out = [request for request, _ in itertools.islice(source, HELD_OUT)]
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": request, "category": "sql"}) for request in held_out]
    (args.out / "requests.jsonl").write_text("\n".join(lines) + "\n")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    steps, loss = train(model, optimizer, source, template, tokenizer, args, device)
    save_model(args.out / "target", model.state_dict(), hf_config(model.s), TARGET_GENERATION)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(args.target / name, args.out / "target" / name)
    print(f"{steps} steps, loss {loss:.3f}; wrote {args.out / 'target'} and {args.out / 'requests.jsonl'}")
    return 0


def train(
    model: Target,
    optimizer: torch.optim.Optimizer,
    source: Iterator[tuple[str, str]],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    args: argparse.Namespace,
    device: str,
) -> tuple[int, float]:
    """Steps and the mean loss of the last ones; a bar on a terminal, a line now and then elsewhere."""
    began, step, recent = time.time(), 0, collections.deque[float](maxlen=RECENT)
    budget = 60 * args.minutes
    with Bars(counted=False) as bars:
        while (share := (time.time() - began) / budget) < 1:
            rows = []
            for request, answer in itertools.islice(source, BATCH):
                text = template.render([{"role": "user", "content": request}])
                rows.append(tokenizer.encode(text + answer + "<turn|>\n", add_bos=False))
            ids = torch.zeros(BATCH, max(map(len, rows)), dtype=torch.long)
            for i, row in enumerate(rows):
                ids[i, : len(row)] = torch.tensor(row)
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model.loss(ids.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * schedule(share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            recent.append(loss.item())
            mean = sum(recent) / len(recent)
            bars.part("training", int(time.time() - began), int(budget), f"step {step}, loss {mean:.3f}")
    return step, sum(recent) / max(1, len(recent))


if __name__ == "__main__":
    sys.exit(main())
