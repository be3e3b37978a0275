"""Muon for hidden matrices, AdamW for the rest, and a schedule over the wall-clock budget.

Muon: momentum orthogonalised by a quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon: an
optimizer for hidden layers in neural networks").
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, approximately, by Newton-Schulz in float32."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    if not wide:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, scaled so that an update has RMS 0.2 x lr like AdamW's."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices for Muon, tables and vectors for AdamW)."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        (matrices if p.dim() == 2 and "embed" not in name else rest).append(p)
    return matrices, rest


def schedule(share: float, warmup: float = 0.02, decay_from: float = 0.45) -> float:
    """Learning-rate factor at a share of the budget: warm up, hold, then fall linearly to 2 %."""
    if share < warmup:
        return share / warmup
    if share < decay_from:
        return 1.0
    return max(0.02, 1.0 - (share - decay_from) / (1.0 - decay_from))
