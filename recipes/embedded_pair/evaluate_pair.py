"""Measure a pair with transformers alone: held-out loss, sample texts, acceptance and acceptance length on prompts.

Shares no code with the engine. Drafts of all positions of a text are made at once: a round's draft depends only on the
text before it, so the rounds of greedy speculative decoding are found afterwards by walking from bonus token to bonus
token.

Usage: python recipes/embedded_pair/evaluate_pair.py [--pair src/geminate/assets/embedded] [--prompts FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, Gemma4AssistantForCausalLM, Gemma4ForCausalLM

STOPS = [1, 106, 50]
SAMPLES = ("<bos>Once upon a time", '<bos><|turn>user\nDefine "river".<turn|>\n<|turn>model\n')


def load_pair(pair: Path) -> tuple[Gemma4ForCausalLM, Gemma4AssistantForCausalLM]:
    """Target and drafter in float32."""
    target = Gemma4ForCausalLM.from_pretrained(pair / "target", dtype=torch.float32).eval()
    drafter = Gemma4AssistantForCausalLM.from_pretrained(
        pair / "drafter", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return target, drafter


def held_out_loss(target: Gemma4ForCausalLM, tokens: np.ndarray, length: int = 512, rows: int = 128) -> float:
    """Mean cross-entropy (nats a token) over windows [rows, length + 1] of packed tokens uint16 [n]."""
    tokens = tokens.reshape(-1)
    count = min(rows, (len(tokens) - 1) // length)
    losses = []
    for i in range(count):
        ids = torch.from_numpy(tokens[i * length : (i + 1) * length + 1].astype(np.int64))[None]
        losses.append(torch.nn.functional.cross_entropy(target(ids[:, :-1]).logits[0], ids[0, 1:]).item())
    return sum(losses) / len(losses)


def continue_greedily(model: Gemma4ForCausalLM, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Prompt and greedy continuation of each prompt, the stop token included."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, p in enumerate(prompts):
        ids[i, width - len(p) :] = torch.tensor(p)
        mask[i, width - len(p) :] = 1
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, eos_token_id=STOPS, pad_token_id=0
    )
    texts = []
    for i, p in enumerate(prompts):
        own = out[i, width:].tolist()
        end = next((j + 1 for j, token in enumerate(own) if token in STOPS), len(own))
        texts.append(p + own[:end])
    return texts


def masks_of(length: int, window: int) -> dict[str, Tensor]:
    """Additive masks [1, 1, length, length]: the round behind row t sees keys 0..t, within the window of its bonus."""
    rows = torch.arange(length)
    gap = rows[:, None] - rows[None, :]  # the bonus stands at row + 1, so its window starts at row + 2 - window
    seen = {"full_attention": gap >= 0, "sliding_attention": (gap >= 0) & (gap <= window - 2)}
    return {kind: torch.where(mask, 0.0, float("-inf"))[None, None] for kind, mask in seen.items()}


def drafts(
    target: Gemma4ForCausalLM, drafter: Gemma4AssistantForCausalLM, ids: Tensor, k: int, rope_position: str
) -> tuple[Tensor, Tensor]:
    """ids int64 [T] -> the k tokens drafted behind every bonus ids[t + 1], [T, k], and the target's argmax [T]."""
    out = target.model(ids[None], return_shared_kv_states=True)
    hidden = out.last_hidden_state
    best = target.lm_head(hidden)[0].argmax(-1)
    masks = masks_of(len(ids), target.config.sliding_window)
    positions = torch.arange(len(ids))[None] + (rope_position == "P")
    token = torch.cat((ids[1:], ids.new_zeros(1)))[None]
    drafted = []
    for _ in range(k):
        inputs = drafter.pre_projection(torch.cat((target.model.embed_tokens(token), hidden), dim=-1))
        # The inner model, since the outer one makes the mask of a single round.
        normed = drafter.model(
            inputs_embeds=inputs,
            attention_mask=masks,
            position_ids=positions,
            shared_kv_states=out.shared_kv_states,
            use_cache=False,
        ).last_hidden_state
        hidden = drafter.post_projection(normed)
        token = drafter.masked_embedding(normed, drafter.lm_head.weight).argmax(-1)
        drafted.append(token[0])
    return torch.stack(drafted, dim=-1), best


def walk(ids: list[int], prompt: int, drafted: Tensor) -> list[tuple[int, int]]:
    """(drafts that count, drafts accepted) of every round; drafts past the end of the text do not count."""
    rounds, bonus = [], prompt
    while bonus < len(ids) - 1:
        able = min(drafted.shape[1], len(ids) - 1 - bonus)
        own = drafted[bonus - 1].tolist()
        n = next((j for j in range(able) if own[j] != ids[bonus + 1 + j]), able)
        rounds.append((able, n))
        bonus += n + 1
    return rounds


def report(rounds: dict[str, list[tuple[int, int]]], k: int) -> None:
    """A line per category, then all."""
    every = [r for part in rounds.values() for r in part]
    for name, part in [*sorted(rounds.items()), ("all", every)]:
        if not part:
            print(f"{name:14} no rounds")
            continue
        at = []
        for j in range(k):
            tried = sum(able > j and n >= j for able, n in part)
            at.append(f"{sum(n > j for _, n in part) / tried:.3f}" if tried else "-")
        length = 1 + sum(n for _, n in part) / len(part)
        print(f"{name:14} acceptance length {length:.3f}, conditional acceptance by position {' '.join(at)}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, default=Path("src/geminate/assets/embedded"))
    parser.add_argument("--prompts", type=Path, default=Path("src/geminate/assets/prompts/bench80.jsonl"))
    parser.add_argument("--tokens", type=Path, default=Path("build/embedded_pair/target/held_out.npy"))
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("-k", type=int, default=4, help="draft length")
    parser.add_argument("--rope-position", choices=["P", "P-1"], default="P")
    return parser.parse_args()


def prompt_ids(tokenizer: Any, items: list[dict[str, Any]]) -> list[list[int]]:
    """Token ids of each item's first turn through the chat template."""
    prompts = []
    for item in items:
        turns = [{"role": "user", "content": item["turns"][0]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False).input_ids)
    return prompts


@torch.no_grad()
def main() -> int:
    """Measure and print."""
    args = arguments()
    for path in (args.pair / "target" / "model.safetensors", args.pair / "drafter" / "model.safetensors", args.prompts):
        if not path.exists():
            print(f"missing: {path}; see recipes/embedded_pair/README.md", file=sys.stderr)
            return 2
    target, drafter = load_pair(args.pair)
    if args.tokens.exists():
        print(f"held-out loss {held_out_loss(target, np.load(args.tokens)):.4f}")
    else:
        print(f"no held-out loss: {args.tokens} is missing", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(args.pair / "target")
    for text in SAMPLES:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        print(repr(tokenizer.decode(continue_greedily(target, [ids], 60)[0])))
    items = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    prompts = prompt_ids(tokenizer, items)
    texts = continue_greedily(target, prompts, args.new_tokens)
    rounds: dict[str, list[tuple[int, int]]] = defaultdict(list)
    generated = forks = 0
    for item, prompt, ids in zip(items, prompts, texts, strict=True):
        drafted, best = drafts(target, drafter, torch.tensor(ids), args.k, args.rope_position)
        # Padding must not have changed the text: the unpadded pass has to choose the same tokens.
        forks += int((best[len(prompt) - 1 : -1] != torch.tensor(ids[len(prompt) :])).sum())
        generated += len(ids) - len(prompt)
        rounds[item["category"]] += walk(ids, len(prompt), drafted)
    count = sum(map(len, rounds.values()))
    print(f"{len(items)} prompts, {generated} tokens, {count} rounds, {forks} tokens not the argmax of one pass")
    report(rounds, args.k)
    return 0


if __name__ == "__main__":
    sys.exit(main())
