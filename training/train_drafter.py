"""Train the drafter on the target's continuations within a wall-clock budget; stop and resume at will.

Every position is a round, unrolled over K steps on the drafter's own hidden states. Later steps see the target's
tokens: a step only counts where the guesses before it were accepted, and then they are those tokens.
Loss of a step: cross-entropy against a mix of the target's argmax and its top-8 distribution, weighted by
DECAY^step; the centroids learn to rank the right token's cluster first.

Usage: python training/train_drafter.py --target DIR --data FILE.npz --out DIR --minutes 22
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
import torch.nn.functional as F
from torch import Tensor

from drafter_model import DRAFTER_PRESETS, Drafter, hf_config
from model import Target, load_target
from optim import Muon, schedule, split_parameters
from train_target import save

STEPS, DECAY, SOFT = 4, 0.85, 0.4


class MixedLoss(torch.autograd.Function):
    """Weighted sum of cross-entropies against sparse label mixtures; gradient made chunk by chunk."""

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, labels: Tensor, weights: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """hidden [N, D], table [V, D], labels and weights [N, m] -> scalar sum of w * -log q(label)."""
        h, w = hidden.to(torch.bfloat16), table.to(torch.bfloat16)
        d_hidden = torch.empty_like(h)
        d_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
        total = torch.zeros((), device=table.device)
        for at in range(0, len(h), 1024):
            part, y, u = h[at : at + 1024], labels[at : at + 1024], weights[at : at + 1024]
            q = (part @ w.T).float()
            lse = q.logsumexp(-1, keepdim=True)
            total += (u * (lse - q.gather(1, y))).sum()
            q.sub_(lse).exp_().mul_(u.sum(1, keepdim=True))
            q.scatter_add_(1, y, -u)
            grad = q.to(torch.bfloat16)
            d_hidden[at : at + 1024] = grad @ w
            d_table += (grad.T @ part).float()
        ctx.save_for_backward(d_hidden, d_table)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        """The stored gradients, scaled."""
        d_hidden, d_table = ctx.saved_tensors
        return d_hidden * grad.to(d_hidden.dtype), d_table * grad, None, None


@torch.no_grad()
def teach(target: Target, ids: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Frozen target: hidden [B, T, H], donors' K/V, labels and weights [B, T, 9] (argmax, then its top 8)."""
    hidden, kv = target.model(ids)
    logits = target.logits(hidden).float()
    top = logits.topk(8, dim=-1)
    soft = top.values.softmax(-1) * SOFT
    labels = torch.cat((top.indices[..., :1], top.indices), dim=-1)
    weights = torch.cat((torch.full_like(soft[..., :1], 1 - SOFT), soft), dim=-1)
    return hidden, kv, labels, weights


def batch_of(data: dict[str, np.ndarray], rows: list[int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """ids int64 [B, T] and sizes int64 [B, 2], cut to the longest."""
    sizes = data["sizes"][rows]
    ids = data["ids"][rows][:, : sizes[:, 1].max()]
    return torch.from_numpy(ids.astype(np.int64)).to(device), torch.from_numpy(sizes.astype(np.int64)).to(device)


def shifted(x: Tensor, by: int) -> Tensor:
    """x[:, t + by], zeros past the end."""
    return F.pad(x[:, by:], (0, 0) * (x.dim() - 2) + (0, by))


def losses(drafter: Drafter, target: Target, ids: Tensor, sizes: Tensor, centroid_weight: float) -> Tensor:
    """Mean weighted loss of a batch over all rounds and steps."""
    hidden, kv, labels, weights = teach(target, ids)
    t = ids.shape[1]
    masks, ropes = drafter.geometry(t, ids.device)
    embedded = target.model.embed_tokens(ids).detach() * target.s.hidden**0.5
    at = torch.arange(t, device=ids.device)[None, :]
    total, norm = torch.zeros((), device=ids.device), 0.0
    owner = drafter.owner().to(ids.device) if centroid_weight else None
    for j in range(STEPS):
        normed, hidden = drafter.step(shifted(embedded, j + 1), hidden, kv, masks, ropes)
        row = at + 1 + j  # the target row whose draw this guess must equal
        weight = torch.where(row < sizes[:, :1], 0.3, 0.0)
        weight = torch.where(row < sizes[:, :1] - 1, weight, 1.0) * (row < sizes[:, 1:]) * DECAY**j
        y, u = shifted(labels, j + 1), shifted(weights, j + 1) * weight[..., None]
        keep = weight.reshape(-1) > 0
        flat = normed.reshape(-1, normed.shape[-1])[keep]
        y, u = y.reshape(-1, 9)[keep], u.reshape(-1, 9)[keep]
        total = total + MixedLoss.apply(flat, drafter.model.embed_tokens.weight, y, u.float())
        norm += float(weight.sum())
        if owner is not None:
            scores = drafter.masked_embedding.centroids(flat.detach()).float()
            ce = F.cross_entropy(scores, owner[y[:, 0]], reduction="none")
            total = total + centroid_weight * (ce * weight.reshape(-1)[keep]).sum()
    return total / norm


@torch.no_grad()
def acceptance(drafter: Drafter, target: Target, data: dict[str, np.ndarray], rows: list[int]) -> list[float]:
    """Conditional acceptance per step against the target's argmax on its own continuations, centroid head in use."""
    tried, passed = [0] * STEPS, [0] * STEPS
    for start in range(0, len(rows), 16):
        ids, sizes = batch_of(data, rows[start : start + 16], str(next(drafter.parameters()).device))
        hidden, kv, labels, _ = teach(target, ids)
        masks, ropes = drafter.geometry(ids.shape[1], ids.device)
        embedded = target.model.embed_tokens(ids) * target.s.hidden**0.5
        at = torch.arange(ids.shape[1], device=ids.device)[None, :]
        alive = (at + 1 >= sizes[:, :1]) & (at + STEPS + 1 < sizes[:, 1:])
        for j in range(STEPS):
            normed, hidden = drafter.step(shifted(embedded, j + 1), hidden, kv, masks, ropes)
            best = shifted(labels[..., 0], j + 1)
            # Only where the text went on with the target's argmax is the next step's input what inference gives.
            hit = alive & (drafter.guess(normed) == best)
            tried[j] += int(alive.sum())
            passed[j] += int(hit.sum())
            alive = hit & (shifted(ids, j + 2) == best)
    return [p / max(n, 1) for p, n in zip(passed, tried, strict=True)]


@torch.no_grad()
def leaks_nothing(drafter: Drafter, target: Target, ids: Tensor) -> bool:
    """Changing tokens after the bonus (and the teacher-forced guesses) must not change a round's first guess."""
    t = ids.shape[1] // 2
    outs = []
    for changed in (False, True):
        mine = ids.clone()
        if changed:
            mine[:, t + 2 :] = (mine[:, t + 2 :] + 17) % target.s.vocab
        hidden, kv, _, _ = teach(target, mine)
        masks, ropes = drafter.geometry(mine.shape[1], mine.device)
        embedded = target.model.embed_tokens(mine) * target.s.hidden**0.5
        outs.append(drafter.step(shifted(embedded, 1), hidden, kv, masks, ropes)[0][:, : t + 1])
    return bool(torch.allclose(outs[0], outs[1], atol=1e-4))


def start_from_target(drafter: Drafter, target: Target) -> None:
    """Embedding rows: the target's, projected on their leading principal components."""
    table = target.model.embed_tokens.weight.detach().float()
    _, _, basis = torch.pca_lowrank(table, q=drafter.d.hidden, center=False, niter=4)
    rows = table @ basis
    drafter.model.embed_tokens.weight.data.copy_(rows * (drafter.d.hidden**-0.5 / rows.std()))


def main() -> int:
    """Train until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("build/training/target"))
    parser.add_argument("--data", type=Path, default=Path("build/training/continuations.npz"))
    parser.add_argument("--out", type=Path, default=Path("build/training/drafter"))
    parser.add_argument("--minutes", type=float, default=22.0)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--preset", choices=sorted(DRAFTER_PRESETS), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rope-position", choices=["P", "P-1"], default="P")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for path in (args.target / "model.pt", args.data):
        if not path.exists():
            print(f"missing: {path}; see training/README.md", file=sys.stderr)
            return 2
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    target = load_target(args.target, args.device).to(args.device).eval().requires_grad_(False)
    for p in target.parameters():  # what is served is the bfloat16 checkpoint
        p.data = p.data.to(torch.bfloat16).float()
    shape = DRAFTER_PRESETS[args.preset]
    drafter = Drafter(target.s, shape, args.rope_position).to(args.device)
    start_from_target(drafter, target)
    (args.out / "config.json").write_text(json.dumps(hf_config(target.s, shape), indent=2) + "\n")
    data = dict(np.load(args.data))
    order = list(range(len(data["ids"])))
    random.Random(0).shuffle(order)
    held_out, train = order[:64], order[64:]
    matrices, rest = split_parameters(drafter)
    optimizers = [
        Muon(matrices, lr=args.muon_lr),
        torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    rates = [args.muon_lr, args.adam_lr]
    step, spent, clustered, rng = 0, 0.0, False, random.Random(args.seed)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=False)
        drafter.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent, clustered = state["step"], state["spent"], state["clustered"]
        rng.setstate(state["rng"])
        print(f"resumed at step {step}, {spent / 60:.1f} minutes spent", flush=True)
    outside = sum(p.numel() for n, p in drafter.named_parameters() if "embed" not in n)
    print(f"{len(train)} texts; {outside} parameters outside the table", flush=True)
    print(
        "no leak from the future:",
        leaks_nothing(drafter, target, batch_of(data, train[:2], args.device)[0]),
        flush=True,
    )
    budget, last, smooth = args.minutes * 60, time.time(), 0.0
    report_at, save_at = time.time() + 30, time.time() + 180
    while spent < budget:
        share = spent / budget
        if share > 0.5 and not clustered:
            # Late, so that the table hardly moves any more under its clusters.
            drafter.cluster_tokens()
            clustered = True
            print("clustered the vocabulary", flush=True)
        ids, sizes = batch_of(data, rng.sample(train, args.batch), args.device)
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = losses(drafter, target, ids, sizes, 0.3 if clustered else 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        smooth = loss.item() if smooth == 0.0 else 0.95 * smooth + 0.05 * loss.item()
        now = time.time()
        spent, last = spent + now - last, now
        if now > report_at:
            print(f"step {step} {spent / 60:.1f} min loss {smooth:.3f}", flush=True)
            report_at = now + 30
        if now > save_at or spent >= budget:
            if clustered:
                rates_now = acceptance(drafter, target, data, held_out)
                print("held-out acceptance", [round(a, 3) for a in rates_now], flush=True)
            save(
                checkpoint,
                {
                    "model": drafter.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step,
                    "spent": spent,
                    "clustered": clustered,
                    "rng": rng.getstate(),
                },
            )
            save(args.out / "drafter.pt", drafter.state_dict())
            save_at = last = time.time()
            save_at += 180
    return 0


if __name__ == "__main__":
    sys.exit(main())
