"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) for the layers and, row by row, for the table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geminate.tools.train.drafter import Drafter

BETAS = (0.9, 0.95)
EPS = 1e-8


def learning_rate(step: int, steps: int, peak: float, warm_up: float = 0.05, floor: float = 0.05) -> float:
    """Linear warm-up over a share of ``steps``, then a cosine down to ``floor`` x peak."""
    rise = max(1, round(warm_up * steps))
    if step < rise:
        return peak * (step + 1) / rise
    along = min(1.0, (step - rise) / max(1, steps - rise))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along)))


@dataclass
class Optimiser:
    """Both halves: torch's AdamW for the layers, `RowAdam` for the table."""

    layers: torch.optim.AdamW
    rows: RowAdam
    clip: float

    @classmethod
    def of(cls, drafter: Drafter, *, weight_decay: float, clip: float) -> Optimiser:
        """Fresh moments."""
        matrices = [p for p in drafter.parameters() if p.dim() == 2]
        vectors = [p for p in drafter.parameters() if p.dim() != 2]
        layers = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0,
            betas=BETAS,
            eps=EPS,
        )
        return cls(layers, RowAdam(drafter.table), clip)

    def step(self, rate: float, drafter: Drafter, rows: Tensor, row_grad: Tensor) -> float:
        """One update; clips the norm of all gradients together and returns it."""
        grads = [p.grad for p in drafter.parameters() if p.grad is not None]
        norm = float(torch.stack([*(g.pow(2).sum() for g in grads), row_grad.pow(2).sum()]).sum().sqrt())
        if math.isfinite(norm) and norm > self.clip:
            scale = self.clip / norm
            for g in grads:
                g.mul_(scale)
            row_grad = row_grad * scale
        for group in self.layers.param_groups:
            group["lr"] = rate
        self.layers.step()
        self.rows.step(rate, rows, row_grad)
        self.layers.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"layers": self.layers.state_dict(), "rows": self.rows.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.layers.load_state_dict(state["layers"])
        self.rows.load_state_dict(state["rows"])


class RowAdam:
    """Adam over the rows of a table that had a gradient; the others keep value and moments.

    Of a vocabulary of 262,144 a batch touches a few thousand: an update of all rows would cost more than the pass.
    Each row counts its own updates for the bias correction.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.mean = torch.zeros_like(table)
        self.square = torch.zeros_like(table)
        self.count = torch.zeros(len(table), device=table.device)

    def step(self, rate: float, rows: Tensor, grad: Tensor) -> None:
        """rows: int64 [C], distinct; grad: float32 [C, hidden]."""
        first, second = BETAS
        count = self.count[rows] + 1
        mean = first * self.mean[rows] + (1 - first) * grad
        square = second * self.square[rows] + (1 - second) * grad * grad
        self.count[rows], self.mean[rows], self.square[rows] = count, mean, square
        wide = (mean / (1 - first**count)[:, None]) / ((square / (1 - second**count)[:, None]).sqrt() + EPS)
        self.table[rows] -= rate * wide

    def state_dict(self) -> dict[str, Tensor]:
        """Moments and counts."""
        return {"mean": self.mean, "square": self.square, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.count.copy_(state["count"])
