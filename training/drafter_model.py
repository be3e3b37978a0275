"""The MTP drafter in plain torch: Gemma4AssistantForCausalLM's arithmetic for a whole text at once.

Every position t of a text is a round of its own: bonus token x_{t+1}, hidden state h_t, keys and values of rows
0..t, one rotary position (t + 1, or t), and up to K unrolled steps that feed back the drafter's own hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geminate.tools.train.layers import DraftLayer, Norm
from model import ROPE_PARAMETERS, Shape, inv_freq


@dataclass(frozen=True)
class DrafterShape:
    """Sizes of a drafter: one sliding and one full layer."""

    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    centroids: int = 128
    top_k: int = 8

    @property
    def kinds(self) -> tuple[str, str]:
        """Layer kinds in order."""
        return ("sliding_attention", "full_attention")


DRAFTER_PRESETS = {"small": DrafterShape(), "large": DrafterShape(hidden=256, intermediate=768, heads=8)}


class DrafterBody(nn.Module):
    """Layers, norm and the drafter's own embedding table (its tied head)."""

    def __init__(self, s: Shape, d: DrafterShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab, d.hidden)
        dims = {"sliding_attention": s.head_dim, "full_attention": s.global_head_dim}
        self.layers = nn.ModuleList(
            DraftLayer(d.hidden, d.heads, dims[kind], d.intermediate, s.eps) for kind in d.kinds
        )
        self.norm = Norm(d.hidden, s.eps)


class MaskedEmbedding(nn.Module):
    """The centroid head's parameters, under transformers' names."""

    def __init__(self, s: Shape, d: DrafterShape) -> None:
        super().__init__()
        self.centroids = nn.Linear(d.hidden, d.centroids, bias=False)
        self.register_buffer("token_ordering", torch.arange(s.vocab))


class Drafter(nn.Module):
    """The drafter of one target."""

    def __init__(self, s: Shape, d: DrafterShape, rope_position: str = "P") -> None:
        super().__init__()
        self.s, self.d, self.rope_position = s, d, rope_position
        self.model = DrafterBody(s, d)
        self.pre_projection = nn.Linear(2 * s.hidden, d.hidden, bias=False)
        self.post_projection = nn.Linear(d.hidden, s.hidden, bias=False)
        self.masked_embedding = MaskedEmbedding(s, d)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * (0.5 if "o_proj" in name or "down" in name else 1.0))
        for layer in self.model.layers:
            layer.self_attn.q_norm.weight.data.fill_(layer.self_attn.dim**-0.5)

    def geometry(self, t: int, device: torch.device) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """Masks [T, T] (round t sees keys 0..t, within the window of position t + 1) and rotary tables [T, D]."""
        rows = torch.arange(t, device=device)
        gap = rows[:, None] - rows[None, :]  # bonus position is rows + 1, so its window starts at rows + 2 - W
        masks = {
            "sliding_attention": (gap >= 0) & (gap <= self.s.window - 2),
            "full_attention": gap >= 0,
        }
        ropes = {}
        for kind in self.d.kinds:
            at = rows + 1 if self.rope_position == "P" else rows
            angle = at[:, None].float() * inv_freq(self.s, kind).to(device)[None, :]
            angle = torch.cat((angle, angle), dim=-1)
            ropes[kind] = (angle.cos(), angle.sin())
        return masks, ropes

    def step(
        self,
        embedded: Tensor,
        hidden: Tensor,
        kv: dict[str, tuple[Tensor, Tensor]],
        masks: dict[str, Tensor],
        ropes: dict[str, tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """One unrolled step of all rounds: (normed [B, T, hidden], next hidden state [B, T, backbone])."""
        x = self.pre_projection(torch.cat((embedded, hidden), dim=-1))
        for kind, layer in zip(self.d.kinds, self.model.layers, strict=True):
            x = layer(x, ropes[kind], kv[kind], masks[kind])
        normed = self.model.norm(x)
        return normed, self.post_projection(normed)

    @torch.no_grad()
    def cluster_tokens(self, rounds: int = 12) -> None:
        """Balanced k-means over the embedding rows; sets token_ordering and the centroids.

        Assignment fills equal-size clusters greedily by margin: tokens that care most choose first.
        """
        table = self.model.embed_tokens.weight.float().cpu()
        count, size = self.d.centroids, self.s.vocab // self.d.centroids
        generator = torch.Generator().manual_seed(0)
        means = table[torch.randperm(len(table), generator=generator)[:count]].clone()
        owner = torch.zeros(len(table), dtype=torch.long)
        for _ in range(rounds):
            distance = torch.cdist(table, means)
            near = distance.topk(2, largest=False).values
            room = [size] * count
            ranked = distance.argsort(dim=1).tolist()
            for token in (near[:, 1] - near[:, 0]).argsort(descending=True).tolist():
                for c in ranked[token]:
                    if room[c]:
                        room[c] -= 1
                        owner[token] = c
                        break
            means = torch.stack([table[owner == c].mean(0) for c in range(count)])
        self.masked_embedding.token_ordering.copy_(owner.argsort(stable=True))
        self.masked_embedding.centroids.weight.copy_(means)

    def owner(self) -> Tensor:
        """Cluster of every token, int64 [vocab]."""
        size = self.s.vocab // self.d.centroids
        owner = torch.empty(self.s.vocab, dtype=torch.long)
        owner[self.masked_embedding.token_ordering.cpu()] = torch.arange(self.s.vocab) // size
        return owner

    def guess(self, normed: Tensor) -> Tensor:
        """Argmax through the centroid head: int64 [...]."""
        flat = normed.reshape(-1, normed.shape[-1]).float()
        chosen = self.masked_embedding.centroids(flat).topk(self.d.top_k, dim=-1).indices
        logits = F.linear(flat, self.model.embed_tokens.weight)
        allowed = torch.zeros(len(flat), self.d.centroids, dtype=torch.bool, device=flat.device).scatter_(
            1, chosen, True
        )
        logits = logits.masked_fill(~allowed[:, self.owner().to(flat.device)], float("-inf"))
        return logits.argmax(-1).view(normed.shape[:-1])


def hf_config(s: Shape, d: DrafterShape) -> dict[str, object]:
    """config.json of the drafter, published layout."""
    return {
        "architectures": ["Gemma4AssistantForCausalLM"],
        "model_type": "gemma4_assistant",
        "dtype": "bfloat16",
        "backbone_hidden_size": s.hidden,
        "use_ordered_embeddings": True,
        "num_centroids": d.centroids,
        "centroid_intermediate_top_k": d.top_k,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "gemma4_text",
            "dtype": "bfloat16",
            "vocab_size": s.vocab,
            "vocab_size_per_layer_input": 0,
            "hidden_size": d.hidden,
            "hidden_size_per_layer_input": 0,
            "intermediate_size": d.intermediate,
            "num_hidden_layers": len(d.kinds),
            "num_attention_heads": d.heads,
            "num_key_value_heads": s.kv_heads,
            "num_global_key_value_heads": None,
            "head_dim": s.head_dim,
            "global_head_dim": s.global_head_dim,
            "layer_types": list(d.kinds),
            "num_kv_shared_layers": len(d.kinds),
            "use_double_wide_mlp": False,
            "attention_k_eq_v": False,
            "enable_moe_block": False,
            "sliding_window": s.window,
            "max_position_embeddings": s.context,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": s.eps,
            "rope_parameters": ROPE_PARAMETERS,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    }  # fmt: skip
