"""The target of the embedded pair in plain torch: Gemma4ForCausalLM's arithmetic, lean enough to train on two cores.

Module and parameter names are those of transformers 5.17.0 (models/gemma4/modeling_gemma4.py), so a state dict
is the checkpoint. `tests/conformance` compares the saved model with transformers through our own engine.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geminate.tools.train.layers import Mlp, Norm, rms, rotate


@dataclass(frozen=True)
class Shape:
    """Sizes of a target; every feature of E2B is present."""

    vocab: int = 8192
    hidden: int = 256
    layers: int = 10
    period: int = 5  # 4 sliding layers, then a full one
    shared: int = 5
    heads: int = 4
    kv_heads: int = 1
    head_dim: int = 32
    global_head_dim: int = 64
    intermediate: int = 224
    ple: int = 64
    window: int = 128
    context: int = 2048
    softcap: float = 30.0
    eps: float = 1e-6

    def kind(self, layer: int) -> str:
        """``full_attention`` for the last layer of each period."""
        return "full_attention" if (layer + 1) % self.period == 0 else "sliding_attention"


PRESETS = {
    "small": Shape(),
    "large": Shape(
        hidden=512,
        layers=15,
        shared=10,
        heads=8,
        head_dim=64,
        global_head_dim=128,
        intermediate=416,
        ple=128,
        window=256,
        context=4096,
    ),
}


def inv_freq(shape: Shape, kind: str) -> Tensor:
    """float32 [head_dim / 2]; proportional rope rotates a quarter of the pairs of full layers."""
    if kind == "sliding_attention":
        dim = shape.head_dim
        return 1.0 / (10_000.0 ** (torch.arange(0, dim, 2).float() / dim))
    dim = shape.global_head_dim
    angles = int(0.25 * dim // 2)
    rotated = 1.0 / (1_000_000.0 ** (torch.arange(0, 2 * angles, 2).float() / dim))
    return torch.cat([rotated, torch.zeros(dim // 2 - angles)])


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention over the last ``window`` positions, blocks of that size against two blocks of keys.

    q, k, v [B, H, T, D] with T a multiple of the window.
    """
    b, h, t, d = q.shape
    n = t // window
    i = torch.arange(window, device=q.device)[:, None]
    j = torch.arange(2 * window, device=q.device)[None, :] - window
    band = (i - j >= 0) & (i - j < window)
    first = band & (j >= 0)  # nothing stands before the first block
    mask = torch.stack([first] + [band] * (n - 1)).repeat(b, 1, 1)[:, None]

    def pairs(x: Tensor) -> Tensor:
        blocks = x.reshape(b, h, n, window, d)
        before = F.pad(blocks, (0, 0, 0, 0, 1, 0))[:, :, :n]
        return torch.cat((before, blocks), dim=3).transpose(1, 2).reshape(b * n, h, 2 * window, d)

    queries = q.reshape(b, h, n, window, d).transpose(1, 2).reshape(b * n, h, window, d)
    out = F.scaled_dot_product_attention(queries, pairs(k), pairs(v), attn_mask=mask, scale=1.0)
    return out.reshape(b, n, h, window, d).transpose(1, 2).reshape(b, h, t, d)


class Attention(nn.Module):
    """Grouped-query attention with q/k/v norms and scale 1; KV-shared layers own no k and v."""

    def __init__(self, s: Shape, layer: int) -> None:
        super().__init__()
        self.s = s
        self.kind = s.kind(layer)
        self.dim = s.head_dim if self.kind == "sliding_attention" else s.global_head_dim
        self.own_kv = layer < s.layers - s.shared
        self.q_proj = nn.Linear(s.hidden, s.heads * self.dim, bias=False)
        self.q_norm = Norm(self.dim, s.eps)
        if self.own_kv:
            self.k_proj = nn.Linear(s.hidden, s.kv_heads * self.dim, bias=False)
            self.v_proj = nn.Linear(s.hidden, s.kv_heads * self.dim, bias=False)
            self.k_norm = Norm(self.dim, s.eps)
        self.o_proj = nn.Linear(s.heads * self.dim, s.hidden, bias=False)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, shared: dict[str, tuple[Tensor, Tensor]]
    ) -> Tensor:
        b, t, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(b, t, -1, self.dim)).transpose(1, 2)
        q = rotate(q, *rope).to(x.dtype)
        if self.own_kv:
            k = self.k_norm(self.k_proj(x).view(b, t, -1, self.dim)).transpose(1, 2)
            k = rotate(k, *rope).to(x.dtype)
            v = rms(self.v_proj(x).view(b, t, -1, self.dim), self.s.eps).to(x.dtype).transpose(1, 2)
            shared[self.kind] = (k, v)
        k, v = shared[self.kind]
        k = k.expand(-1, q.shape[1], -1, -1) if k.shape[1] == 1 else k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        v = v.expand(-1, q.shape[1], -1, -1) if v.shape[1] == 1 else v.repeat_interleave(q.shape[1] // v.shape[1], 1)
        if self.kind == "full_attention":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        elif t % self.s.window == 0:
            out = windowed_attention(q, k, v, self.s.window)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.o_proj(out.transpose(1, 2).reshape(b, t, -1))


class Layer(nn.Module):
    """Decoder layer with per-layer input and layer scalar."""

    def __init__(self, s: Shape, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(s, layer)
        # Twice as wide on KV-shared layers.
        self.mlp = Mlp(s.hidden, s.intermediate * (1 if self.self_attn.own_kv else 2))
        self.input_layernorm = Norm(s.hidden, s.eps)
        self.post_attention_layernorm = Norm(s.hidden, s.eps)
        self.pre_feedforward_layernorm = Norm(s.hidden, s.eps)
        self.post_feedforward_layernorm = Norm(s.hidden, s.eps)
        self.layer_scalar = nn.Parameter(torch.ones(1))
        self.per_layer_input_gate = nn.Linear(s.hidden, s.ple, bias=False)
        self.per_layer_projection = nn.Linear(s.ple, s.hidden, bias=False)
        self.post_per_layer_input_norm = Norm(s.hidden, s.eps)

    def forward(
        self,
        x: Tensor,
        ple: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor,
        shared: dict[str, tuple[Tensor, Tensor]],
    ) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rope, mask, shared))
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        gate = F.gelu(self.per_layer_input_gate(x), approximate="tanh") * ple
        x = x + self.post_per_layer_input_norm(self.per_layer_projection(gate))
        return x * self.layer_scalar


class Body(nn.Module):
    """Everything but the head."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.embed_tokens_per_layer = nn.Embedding(s.vocab, s.layers * s.ple)
        self.per_layer_model_projection = nn.Linear(s.hidden, s.layers * s.ple, bias=False)
        self.per_layer_projection_norm = Norm(s.ple, s.eps)
        self.layers = nn.ModuleList(Layer(s, i) for i in range(s.layers))
        self.norm = Norm(s.hidden, s.eps)
        for kind in ("sliding_attention", "full_attention"):
            self.register_buffer(f"inv_{kind}", inv_freq(s, kind), persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """ids [B, T] -> post-norm hidden [B, T, hidden] and the donors' K and V [B, kv_heads, T, D]."""
        s = self.s
        x = self.embed_tokens(ids) * s.hidden**0.5
        b, t = ids.shape
        ple = (self.per_layer_model_projection(x) * s.hidden**-0.5).view(b, t, s.layers, s.ple)
        rows = (self.embed_tokens_per_layer(ids) * s.ple**0.5).view(b, t, s.layers, s.ple)
        ple = (self.per_layer_projection_norm(ple) + rows) * 2**-0.5
        positions = torch.arange(t, device=ids.device)
        ropes, masks = {}, {}
        gap = positions[:, None] - positions[None, :]
        for kind in ("sliding_attention", "full_attention"):
            angle = positions[:, None].float() * getattr(self, f"inv_{kind}")[None, :]
            angle = torch.cat((angle, angle), dim=-1)
            ropes[kind] = (angle.cos(), angle.sin())
            masks[kind] = (gap >= 0) & (gap < s.window) if kind == "sliding_attention" else gap >= 0
        shared: dict[str, tuple[Tensor, Tensor]] = {}
        for i, layer in enumerate(self.layers):
            kind = s.kind(i)
            x = layer(x, ple[:, :, i].to(x.dtype), ropes[kind], masks[kind], shared)
        return self.norm(x), shared


class SoftcapLoss(torch.autograd.Function):
    """Mean cross-entropy of soft-capped tied logits, gradient computed chunk by chunk in the forward pass.

    The whole logits matrix never exists: a chunk stays in cache, which is what makes it fast on a CPU.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, labels: Tensor, cap: float) -> Tensor:  # type: ignore[no-untyped-def]
        """hidden [N, D], table [V, D], labels [N] -> scalar."""
        n, chunk = hidden.shape[0], 1024
        h, w = hidden.to(torch.bfloat16), table.to(torch.bfloat16)
        d_hidden = torch.empty_like(h)
        d_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
        total = torch.zeros((), device=hidden.device)
        for at in range(0, n, chunk):
            part, y = h[at : at + chunk], labels[at : at + chunk, None]
            t = (part @ w.T).float().div_(cap).tanh_()
            slope = t.square().neg_().add_(1.0)
            t.mul_(cap)
            lse = t.logsumexp(-1, keepdim=True)
            total += (lse - t.gather(1, y)).sum()
            p = t.sub_(lse).exp_()
            p.scatter_add_(1, y, p.new_full(y.shape, -1.0))
            grad = p.mul_(slope).mul_(1.0 / n).to(torch.bfloat16)
            d_hidden[at : at + chunk] = grad @ w
            d_table += (grad.T @ part).float()
        ctx.save_for_backward(d_hidden, d_table)
        return total / n

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        """The stored gradients, scaled."""
        d_hidden, d_table = ctx.saved_tensors
        return d_hidden * grad.to(d_hidden.dtype), d_table * grad, None, None


class Target(nn.Module):
    """Gemma4ForCausalLM with a tied head."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.model = Body(s)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # Unit-variance rows once scaled: embeddings by sqrt(width), projections by fan-in.
                width = p.shape[1] if "per_layer" not in name or "proj" in name or "gate" in name else s.ple
                nn.init.normal_(p, std=width**-0.5 * (0.5 if "o_proj" in name or "down" in name else 1.0))
        for layer in self.model.layers:
            # Attention has scale 1: start with soft scores.
            layer.self_attn.q_norm.weight.data.fill_(layer.self_attn.dim**-0.5)

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped logits [..., vocab]."""
        raw = F.linear(hidden, self.model.embed_tokens.weight.to(hidden.dtype))
        return torch.tanh(raw / self.s.softcap) * self.s.softcap

    def loss(self, ids: Tensor) -> Tensor:
        """Mean next-token cross-entropy of ids [B, T + 1]."""
        hidden, _ = self.model(ids[:, :-1])
        loss: Tensor = SoftcapLoss.apply(
            hidden.reshape(-1, self.s.hidden),
            self.model.embed_tokens.weight,
            ids[:, 1:].reshape(-1),
            self.s.softcap,
        )
        return loss


ROPE_PARAMETERS = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}


def hf_config(s: Shape) -> dict[str, object]:
    """config.json of the target in transformers' flat text layout."""
    return {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "dtype": "bfloat16",
        "vocab_size": s.vocab,
        "vocab_size_per_layer_input": s.vocab,
        "hidden_size": s.hidden,
        "hidden_size_per_layer_input": s.ple,
        "intermediate_size": s.intermediate,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "num_global_key_value_heads": None,
        "head_dim": s.head_dim,
        "global_head_dim": s.global_head_dim,
        "layer_types": [s.kind(i) for i in range(s.layers)],
        "num_kv_shared_layers": s.shared,
        "use_double_wide_mlp": True,
        "attention_k_eq_v": False,
        "enable_moe_block": False,
        "sliding_window": s.window,
        "max_position_embeddings": s.context,
        "final_logit_softcapping": s.softcap,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": s.eps,
        "rope_parameters": ROPE_PARAMETERS,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }  # fmt: skip


def parameters_by_kind(model: Target) -> dict[str, int]:
    """Parameters in the two tables and outside them."""
    tables = model.model.embed_tokens.weight.numel() + model.model.embed_tokens_per_layer.weight.numel()
    return {"tables": tables, "outside": sum(p.numel() for p in model.parameters()) - tables}


def load_target(directory: Path, map_location: str = "cpu") -> Target:
    """A target from a training checkpoint directory (``shape.json`` and ``model.pt``)."""
    shape = Shape(**json.loads((directory / "shape.json").read_text()))
    model = Target(shape)
    state = torch.load(directory / "model.pt", map_location=map_location, weights_only=True)
    model.load_state_dict(state)
    return model


def save_shape(shape: Shape, directory: Path) -> None:
    """Write ``shape.json``."""
    (directory / "shape.json").write_text(json.dumps(asdict(shape), indent=1) + "\n")
