"""The centroid head from scratch: clusters of equal size by k-means over the drafter's table, and how good they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geminate.tools.train.drafter import Drafter

NEAR = 16  # clusters a token may choose from before it takes whatever has room


@torch.no_grad()
def principal_rows(table: Tensor, width: int) -> Tensor:
    """The table in its ``width`` directions of most energy, scaled to unit mean square: float32 [vocab, width].

    Where the target's rows are narrower than that, random columns fill up.
    """
    energy = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64, device=table.device)
    for at in range(0, len(table), 8192):
        part = table[at : at + 8192].double()
        energy += part.T @ part
    directions = torch.linalg.eigh(energy).eigenvectors.flip(1)[:, :width].float()
    rows = table @ directions
    if rows.shape[1] < width:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(table), width - rows.shape[1], generator=generator).to(table.device)
        rows = torch.cat((rows, 0.1 * rows.std() * noise), 1)
    scaled: Tensor = rows / rows.pow(2).mean().sqrt().clamp_min(1e-12) * width**-0.5
    return scaled


@torch.no_grad()
def cluster_tokens(drafter: Drafter, rounds: int = 8, on_round: Callable[[int, int], None] | None = None) -> None:
    """Set token_ordering and centroids by k-means over the table's rows (Lloyd 1982) with clusters of equal size.

    In every round tokens choose in the order of how much their first choice matters to them (distance to the second
    nearest mean less that to the nearest); a full cluster sends them to the next.
    """
    assert drafter.centroids is not None
    table = drafter.table.float()
    device = table.device
    count = drafter.config.num_centroids
    size, near = len(table) // count, min(NEAR, count)
    generator = torch.Generator().manual_seed(0)
    means = table[torch.randperm(len(table), generator=generator)[:count].to(device)].clone()
    owner = torch.zeros(len(table), dtype=torch.long)  # on the CPU, where tokens choose one by one
    for done in range(rounds):
        distances, choices = _nearest(table, means, near)
        order = (distances[:, min(1, near - 1)] - distances[:, 0]).argsort(descending=True, stable=True).tolist()
        room, picks = [size] * count, choices.tolist()
        homeless: list[int] = []
        for token in order:
            for cluster in picks[token]:
                if room[cluster]:
                    room[cluster] -= 1
                    owner[token] = cluster
                    break
            else:
                homeless.append(token)
        free = [c for c, left in enumerate(room) for _ in range(left)]
        owner[torch.tensor(homeless, dtype=torch.long)] = torch.tensor(free, dtype=torch.long)
        means = torch.zeros_like(means).index_add_(0, owner.to(device), table) / size
        if on_round is not None:
            on_round(done + 1, rounds)
    drafter.token_ordering.copy_(owner.argsort(stable=True))
    drafter.centroids.weight.copy_(means)


def _nearest(table: Tensor, means: Tensor, near: int) -> tuple[Tensor, Tensor]:
    """Distances and indices of the nearest means, both [vocab, near]."""
    found = [torch.cdist(table[at : at + 4096], means).topk(near, largest=False) for at in range(0, len(table), 4096)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


@torch.no_grad()
def cluster_recall(drafter: Drafter, normed: Tensor, tokens: Tensor) -> float:
    """Share of draft tokens whose right token stands in a chosen cluster: normed [N, hidden], tokens int64 [N]."""
    assert drafter.centroids is not None
    if not len(normed):
        return 0.0
    chosen = drafter.centroids(normed).topk(drafter.config.centroid_top_k, dim=-1).indices
    return float((chosen == drafter.owner()[tokens][:, None]).any(-1).float().mean())
