"""Measure an exported pair in torch: held-out loss, sample texts, acceptance and acceptance length on prompts.

Drafts of all positions of a text are made at once: a round's draft depends only on the text before it, so the
rounds of greedy speculative decoding are found afterwards by walking from bonus token to bonus token.

Usage: python training/evaluate_pair.py --pair src/geminate/assets/embedded [--prompts FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, Gemma4ForCausalLM

from drafter_model import Drafter, DrafterShape
from model import Shape, Target

STOPS = [1, 106, 50]
SAMPLES = ("<bos>Once upon a time", '<bos><|turn>user\nDefine "river".<turn|>\n<|turn>model\n')


def load_pair(pair: Path, rope_position: str) -> tuple[Target, Drafter]:
    """Both models in float32 from the exported bfloat16 checkpoints."""
    c = json.loads((pair / "target" / "config.json").read_text())
    shape = Shape(
        vocab=c["vocab_size"], hidden=c["hidden_size"], layers=c["num_hidden_layers"],
        period=c["layer_types"].index("full_attention") + 1, shared=c["num_kv_shared_layers"],
        heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"], head_dim=c["head_dim"],
        global_head_dim=c["global_head_dim"], intermediate=c["intermediate_size"],
        ple=c["hidden_size_per_layer_input"], window=c["sliding_window"],
        context=c["max_position_embeddings"], softcap=c["final_logit_softcapping"],
    )  # fmt: skip
    d = json.loads((pair / "drafter" / "config.json").read_text())
    text = d["text_config"]
    drafter_shape = DrafterShape(
        hidden=text["hidden_size"], intermediate=text["intermediate_size"], heads=text["num_attention_heads"],
        centroids=d["num_centroids"], top_k=d["centroid_intermediate_top_k"],
    )  # fmt: skip
    target, drafter = Target(shape), Drafter(shape, drafter_shape, rope_position)
    for model, name in ((target, "target"), (drafter, "drafter")):
        state = load_file(pair / name / "model.safetensors")
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        model.eval().requires_grad_(False)
    return target, drafter


def held_out_loss(target: Target, tokens: np.ndarray, length: int = 512, rows: int = 128) -> float:
    """Mean cross-entropy (nats a token) over windows [rows, length + 1] of packed tokens uint16 [n]."""
    tokens = tokens.reshape(-1)
    count = min(rows, (len(tokens) - 1) // length)
    losses = []
    for i in range(count):
        ids = torch.from_numpy(tokens[i * length : (i + 1) * length + 1].astype(np.int64))[None]
        logits = target.logits(target.model(ids[:, :-1])[0])
        losses.append(torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).item())
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


def drafts(target: Target, drafter: Drafter, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """ids [T] -> the k tokens drafted behind every bonus ids[t + 1], int64 [T, k], and the target's argmax [T]."""
    hidden, kv = target.model(ids[None])
    best = target.logits(hidden)[0].argmax(-1)
    masks, ropes = drafter.geometry(len(ids), ids.device)
    token = torch.cat((ids[1:], ids.new_zeros(1)))[None]
    guesses = []
    for _ in range(k):
        embedded = target.model.embed_tokens(token) * target.s.hidden**0.5
        normed, hidden = drafter.step(embedded, hidden, kv, masks, ropes)
        token = drafter.guess(normed)
        guesses.append(token[0])
    return torch.stack(guesses, dim=-1), best


def walk(ids: list[int], prompt: int, guesses: Tensor) -> list[tuple[int, int]]:
    """(drafts that count, drafts accepted) of every round; drafts past the end of the text do not count."""
    rounds, bonus = [], prompt
    while bonus < len(ids) - 1:
        able = min(guesses.shape[1], len(ids) - 1 - bonus)
        own = guesses[bonus - 1].tolist()
        n = next((j for j in range(able) if own[j] != ids[bonus + 1 + j]), able)
        rounds.append((able, n))
        bonus += n + 1
    return rounds


@torch.no_grad()
def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=Path("src/geminate/assets/embedded"))
    parser.add_argument("--prompts", type=Path, default=Path("src/geminate/assets/prompts/bench80.jsonl"))
    parser.add_argument("--tokens", type=Path, default=Path("build/training/target/held_out.npy"))
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("-k", type=int, default=4, help="draft length")
    parser.add_argument("--rope-position", choices=["P", "P-1"], default="P")
    args = parser.parse_args()
    for path in (args.pair / "target" / "model.safetensors", args.pair / "drafter" / "model.safetensors", args.prompts):
        if not path.exists():
            print(f"missing: {path}; see training/README.md", file=sys.stderr)
            return 2
    target, drafter = load_pair(args.pair, args.rope_position)
    if args.tokens.exists():
        print(f"held-out loss {held_out_loss(target, np.load(args.tokens)):.4f}")
    else:
        print(f"no held-out loss: {args.tokens} is missing", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(args.pair / "target")
    model = Gemma4ForCausalLM.from_pretrained(args.pair / "target", dtype=torch.float32).eval()
    for text in SAMPLES:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        print(repr(tokenizer.decode(continue_greedily(model, [ids], 60)[0])))
    items = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    prompts = []
    for item in items:
        turns = [{"role": "user", "content": item["turns"][0]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False).input_ids)
    texts = continue_greedily(model, prompts, args.new_tokens)
    rounds: dict[str, list[tuple[int, int]]] = defaultdict(list)
    generated = forks = 0
    for item, prompt, ids in zip(items, prompts, texts, strict=True):
        guesses, best = drafts(target, drafter, torch.tensor(ids), args.k)
        # Padding must not have changed the text: the unpadded pass has to choose the same tokens.
        forks += int((best[len(prompt) - 1 : -1] != torch.tensor(ids[len(prompt) :])).sum())
        generated += len(ids) - len(prompt)
        rounds[item["category"]] += walk(ids, len(prompt), guesses)
    every = [r for part in rounds.values() for r in part]
    print(f"{len(items)} prompts, {generated} tokens, {len(every)} rounds, {forks} tokens not the argmax of one pass")
    for name, part in [*sorted(rounds.items()), ("all", every)]:
        if not part:
            print(f"{name:14} no rounds")
            continue
        at = []
        for j in range(args.k):
            tried = sum(able > j and n >= j for able, n in part)
            at.append(f"{sum(n > j for _, n in part) / tried:.3f}" if tried else "-")
        length = 1 + sum(n for _, n in part) / len(part)
        print(f"{name:14} acceptance length {length:.3f}, conditional acceptance by position {' '.join(at)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
