"""Gemma 4's layers in torch, under transformers' names: what drafters and the embedded target are trained with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, in float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding by halves: x [B, H, T, D], cos and sin [T, D]."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Norm(nn.Module):
    """RMSNorm with a weight; see `rms`."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, over the last axis."""
        return (rms(x, self.eps) * self.weight).to(x.dtype)


class QueryAttention(nn.Module):
    """Attention with queries only; keys and values are the target's."""

    def __init__(self, hidden: int, heads: int, dim: int, eps: float) -> None:
        super().__init__()
        self.dim = dim
        self.q_proj = nn.Linear(hidden, heads * dim, bias=False)
        self.q_norm = Norm(dim, eps)
        self.o_proj = nn.Linear(heads * dim, hidden, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], kv: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x [B, T, hidden]; the scale is 1, as q_norm carries it."""
        b, t, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(b, t, -1, self.dim)).transpose(1, 2)
        q = rotate(q, *rope).to(x.dtype)
        k, v = (a.to(x.dtype).repeat_interleave(q.shape[1] // a.shape[1], 1) for a in kv)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        made: Tensor = self.o_proj(out.transpose(1, 2).reshape(b, t, -1))
        return made


class Mlp(nn.Module):
    """Gated feed-forward layer with tanh-GELU."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, hidden]."""
        made: Tensor = self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return made


class DraftLayer(nn.Module):
    """Gemma 4's decoder layer without per-layer inputs."""

    def __init__(self, hidden: int, heads: int, dim: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.self_attn = QueryAttention(hidden, heads, dim, eps)
        self.mlp = Mlp(hidden, intermediate)
        self.input_layernorm = Norm(hidden, eps)
        self.post_attention_layernorm = Norm(hidden, eps)
        self.pre_feedforward_layernorm = Norm(hidden, eps)
        self.post_feedforward_layernorm = Norm(hidden, eps)
        self.layer_scalar = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], kv: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x [B, T, hidden]."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rope, kv, mask))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x * self.layer_scalar
