"""What a draft token is trained for: the target's distribution, by cross-entropy and total variation.

With p the target and q the drafter, sum over x of min(p, q) = 1 - TV(p, q) is the chance that a drafted token is
accepted under the best coupling (Leviathan et al. 2023, arXiv:2211.17192, corollary 3.6). Choices of the loss:

- ``ce``: cross-entropy of q against p.
- ``tv``: 1 - sum min(p, q): acceptance itself, flat where q is far from p.
- ``mix``: 0.1 ce + 0.9 tv, as DSpark's released Gemma 4 configurations weigh them.
- ``lk``: w ce + (1 - w) tv with w = exp(-3 acceptance): cross-entropy while drafts are poor, acceptance once they are
  good (the hybrid LK loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geminate.tools.train.options import LossName

CHUNK = 512  # rows whose logits exist at a time


@dataclass(frozen=True)
class Candidates:
    """The part of the vocabulary a batch is scored against.

    Attributes:
        ids: int64 [C], distinct and sorted. correction: float32 [C], added to the logits: log of how many tokens
            each stands for (0 for those that are there on purpose), so that the sum over the sampled ones
            estimates the sum over all (Bengio and Senecal 2008).
    """

    ids: Tensor
    correction: Tensor


def candidates(labels: Tensor, vocab: int, sampled: int, generator: torch.Generator) -> Candidates:
    """All tokens that a batch's target distributions name, and ``sampled`` more at random; all, if that is as many."""
    named = torch.unique(labels.cpu())
    if len(named) + sampled >= vocab // 2:
        return Candidates(torch.arange(vocab), torch.zeros(vocab))
    drawn = torch.randint(vocab, (sampled,), generator=generator)
    ids = torch.unique(torch.cat((named, drawn)))
    purposely = torch.isin(ids, named)
    others = int((~purposely).sum())
    weight = torch.log(torch.tensor((vocab - len(named)) / max(1, others)))
    return Candidates(ids, torch.where(purposely, torch.zeros(()), weight))


def ce_share(loss: LossName, acceptance: Tensor) -> Tensor:
    """The weight of the cross-entropy, the rest being total variation."""
    if loss == "lk":
        return torch.exp(-3.0 * acceptance)
    return torch.full_like(acceptance, {"ce": 1.0, "tv": 0.0, "mix": 0.1}[loss])


class RoundLoss(torch.autograd.Function):
    """Weighted loss of N draft tokens; gradients are made chunk by chunk, so no [N, C] array outlives its chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        normed: Tensor,
        table: Tensor,
        correction: Tensor,
        at: Tensor,
        p: Tensor,
        weights: Tensor,
        name: LossName,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the chance of acceptance, and the most likely candidate of every row.

        Args:
            normed: float32 [N, D]. table: float32 [C, D], the candidates' rows. correction: float32 [C].
            at: int64 [N, m], where in C the target's most likely tokens stand. p: float32 [N, m], their shares, sum 1.
            weights: float32 [N].

        Returns:
            The sum of weight x loss; min(p, q) summed, float32 [N]; where in C the draft token stands, int64 [N].
        """
        d_normed, d_table = torch.empty_like(normed), torch.zeros_like(table)
        accepted = torch.empty(len(normed), device=normed.device)
        best = torch.empty(len(normed), dtype=torch.long, device=normed.device)
        total = torch.zeros((), device=normed.device)
        for start in range(0, len(normed), CHUNK):
            part = slice(start, start + CHUNK)
            with torch.enable_grad():
                h, w = normed[part].detach().requires_grad_(), table.detach().requires_grad_()
                raw = h @ w.T
                best[part] = raw.detach().argmax(-1)
                logits = raw + correction
                log_q = logits.gather(1, at[part]) - logits.logsumexp(-1, keepdim=True)
                overlap = torch.minimum(p[part], log_q.exp()).sum(-1)
                share = ce_share(name, overlap.detach())
                each = share * -(p[part] * log_q).sum(-1) + (1 - share) * (1 - overlap)
                value = (weights[part] * each).sum()
            gh, gw = torch.autograd.grad(value, (h, w))
            d_normed[part] = gh
            d_table += gw
            accepted[part] = overlap.detach()
            total += value.detach()
        ctx.save_for_backward(d_normed, d_table)
        ctx.mark_non_differentiable(accepted, best)
        return total, accepted, best

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradients, scaled."""
        d_normed, d_table = ctx.saved_tensors
        return d_normed * grads[0], d_table * grads[0], None, None, None, None, None
