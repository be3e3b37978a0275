"""A batch's rounds unrolled: the training loss, and the acceptance that held-out texts show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geminate.tools.train.clusters import cluster_recall
from geminate.tools.train.drafter import Drafter
from geminate.tools.train.loss import RoundLoss, candidates
from geminate.tools.train.options import LossName
from geminate.tools.train.teacher import Batch

PROMPT_WEIGHT = 0.3  # rows that predict prompt tokens: the target did not write them, but they are text
LEAST_SURVIVAL = 0.05  # a step is trained a little even where those before it are poor


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """See `geminate train drafter --help`.

    Attributes:
        steps: draft steps unrolled. soft: weight of the target's softmax in p, the rest is on its best token.
        own_tokens: share of rows on which a step counts only if the drafter's own draft tokens before it were right.
        sampled: random tokens in the candidates of a large vocabulary. centroid_weight: of the cluster loss.
    """

    name: LossName = "lk"
    steps: int = 4
    soft: float = 0.4
    own_tokens: float = 0.3
    sampled: int = 2048
    centroid_weight: float = 0.2


def shifted(x: Tensor, by: int) -> Tensor:
    """x[:, t + by], zeros past the end."""
    return F.pad(x[:, by:], (0, 0) * (x.dim() - 2) + (0, by))


@dataclass
class BatchLoss:
    """A differentiable ``value`` (mean over weights) and what the table's rows contributed.

    Attributes:
        rows: int64 [C], candidates. table: their rows, a leaf whose ``grad`` is the table's gradient.
    """

    value: Tensor
    rows: Tensor
    table: Tensor


def target_shares(batch: Batch, soft: float) -> Tensor:
    """p over the kept tokens, float32 [B, T, m]: the best token's share is at least 1 - soft."""
    p = soft * batch.top_logits.softmax(-1)
    p[..., 0] += 1 - soft
    return p


def batch_loss(
    drafter: Drafter, batch: Batch, settings: LossSettings, generator: torch.Generator, *, bf16: bool = False
) -> BatchLoss:
    """The loss of a batch over all rounds and steps.

    A step's weight at a row is the chance that all steps before it are accepted (of min(p, q), detached), at least
    LEAST_SURVIVAL; on a share of rows it is instead 1 or 0 by whether the drafter's own draft tokens were the text's:
    there the round continues from its own tokens, and where they are wrong the served round has ended.
    """
    device = drafter.table.device
    vocab = drafter.config.text.vocab_size
    t = batch.ids.shape[1]
    geometry = drafter.geometry(t)
    shares = target_shares(batch, settings.soft)
    at = torch.arange(t, device=device)[None, :]
    prompt, whole = batch.lengths[:, :1], batch.lengths[:, 1:]
    chosen = candidates(batch.top_ids[(at < whole)], vocab, settings.sampled, generator)
    rows, correction = chosen.ids.to(device), chosen.correction.to(device)
    table = drafter.table[rows].detach().requires_grad_()
    places = torch.searchsorted(rows, batch.top_ids)
    own = torch.rand(batch.ids.shape, generator=generator).to(device) < settings.own_tokens
    owner = drafter.owner() if drafter.centroids is not None else None
    hidden, survival = batch.hidden, torch.ones_like(batch.ids, dtype=torch.float32)
    total, norm = torch.zeros((), device=device), torch.zeros((), device=device)
    for j in range(settings.steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            normed, hidden = drafter.step(shifted(batch.embedded, j + 1), hidden, batch.kv, geometry)
        row = at + 1 + j  # the target row whose draw this draft token must equal
        weight = torch.where(row < prompt - 1, PROMPT_WEIGHT, 1.0) * (row < whole) * survival
        keep = weight.reshape(-1) > 0
        if not keep.any():
            break
        flat = normed.reshape(-1, normed.shape[-1])[keep].float()
        p = shifted(shares, j + 1).reshape(-1, shares.shape[-1])[keep]
        labels = shifted(places, j + 1).reshape(-1, places.shape[-1])[keep]
        w = weight.reshape(-1)[keep]
        value, overlap, best = RoundLoss.apply(flat, table, correction, labels, p, w, settings.name)  # type: ignore[no-untyped-call]
        total = total + value
        norm = norm + w.sum()
        if owner is not None and settings.centroid_weight:
            assert drafter.centroids is not None
            scores = drafter.centroids(flat.detach())
            ce = F.cross_entropy(scores, owner[rows[labels[:, 0]]], reduction="none")
            total = total + settings.centroid_weight * (w * ce).sum()
        with torch.no_grad():
            here = torch.zeros_like(survival)
            here.view(-1)[keep] = overlap
            soft = torch.where(keep.view_as(here), (survival * here).clamp_min(LEAST_SURVIVAL), survival)
            right = torch.zeros_like(survival)
            wanted = shifted(batch.ids, j + 2).reshape(-1)[keep]
            right.view(-1)[keep] = (rows[best] == wanted).float()
            survival = torch.where(own, survival * right, soft)
    return BatchLoss(total / norm.clamp_min(1e-6), rows, table)


@dataclass
class Acceptance:
    """Counts over held-out answers.

    Attributes:
        tried, accepted: rounds that reached step i, and in which its draft token was the text's token.
        recall_hits: share of draft tokens whose token stood in a chosen cluster, summed; recall_batches: over these.
    """

    tried: list[float]
    accepted: list[float]
    recall_hits: float = 0.0
    recall_batches: int = 0

    @property
    def by_position(self) -> list[float]:
        """Chance that draft tokens 1 .. i are all accepted."""
        first = max(1.0, self.tried[0])
        return [a / first for a in self.accepted]

    @property
    def length(self) -> float:
        """Expected tokens a round at drafts as long as there are positions."""
        return 1.0 + sum(self.by_position)

    @property
    def recall(self) -> float | None:
        """Cluster recall, or None without a centroid head."""
        return self.recall_hits / self.recall_batches if self.recall_batches else None


@torch.no_grad()
def measure(drafter: Drafter, batches: list[Batch], steps: int) -> Acceptance:
    """Acceptance with every answer row as the start of a round, drafted as served, fed the tokens of the text."""
    seen = Acceptance([0.0] * steps, [0.0] * steps)
    for batch in batches:
        t = batch.ids.shape[1]
        geometry = drafter.geometry(t)
        at = torch.arange(t, device=batch.ids.device)[None, :]
        prompt, whole = batch.lengths[:, :1], batch.lengths[:, 1:]
        # Rounds whose bonus token is in the answer and whose draft tokens all have a token to be compared to.
        alive = (at >= prompt - 1) & (at + 1 + steps < whole)
        hidden = batch.hidden
        for j in range(steps):
            normed, hidden = drafter.step(shifted(batch.embedded, j + 1), hidden, batch.kv, geometry)
            seen.tried[j] += float(alive.sum())
            flat, wanted = normed[alive], shifted(batch.ids, j + 2)[alive]
            right = drafter.draft(flat) == wanted
            if drafter.centroids is not None and j == 0 and len(flat):
                seen.recall_hits += cluster_recall(drafter, flat, wanted)
                seen.recall_batches += 1
            alive = alive.clone()
            alive[alive.clone()] = right
            seen.accepted[j] += float(alive.sum())
    return seen
