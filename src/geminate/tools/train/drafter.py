"""The MTP drafter in torch: Gemma4AssistantForCausalLM's arithmetic, for a whole text at once.

Every row t of a text is a round of its own, with the geometry that is served: bonus token x[t+1], hidden state h[t],
keys and values of rows 0..t (strictly before the bonus token), one rotary position for all steps (t + 1, or t), and
steps that feed back the drafter's own hidden state. Parameter names are transformers', so a state dict is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geminate.plan.config import AssistantConfig
from geminate.runtime.drafter import RopePosition
from geminate.tools.train.layers import DraftLayer, Norm

KeyValues = dict[str, tuple[Tensor, Tensor]]  # layer kind -> keys and values, float32 [B, kv_heads, T, head_dim]


class Body(nn.Module):
    """Layers and norm; the table is a plain tensor, see `Drafter.table`."""

    def __init__(self, config: AssistantConfig) -> None:
        super().__init__()
        text = config.text
        self.layers = nn.ModuleList(
            DraftLayer(text.hidden_size, la.heads, la.head_dim, la.intermediate, text.rms_norm_eps)
            for la in text.layers
        )
        self.norm = Norm(text.hidden_size, text.rms_norm_eps)


@dataclass(frozen=True)
class Geometry:
    """Masks bool [T, T] and rotary tables float32 [T, head_dim] by layer kind."""

    masks: dict[str, Tensor]
    ropes: dict[str, tuple[Tensor, Tensor]]


class Drafter(nn.Module):
    """The drafter of one target.

    Attributes:
        table: float32 [vocab, hidden], embedding and tied head. Not a parameter: a step touches few of its rows
            when the vocabulary is large, and `geminate.tools.train.optimiser` updates those alone.
        token_ordering: int64 [vocab], token ids in cluster order; only with a centroid head.
    """

    def __init__(self, config: AssistantConfig, rope_position: RopePosition = "P") -> None:
        super().__init__()
        text = config.text
        self.config, self.rope_position = config, rope_position
        self.model = Body(config)
        self.pre_projection = nn.Linear(2 * config.backbone_hidden_size, text.hidden_size, bias=False)
        self.post_projection = nn.Linear(text.hidden_size, config.backbone_hidden_size, bias=False)
        self.centroids = (
            nn.Linear(text.hidden_size, config.num_centroids, bias=False) if config.use_ordered_embeddings else None
        )
        self.register_buffer("table", torch.zeros(text.vocab_size, text.hidden_size))
        if config.use_ordered_embeddings:
            self.register_buffer("token_ordering", torch.arange(text.vocab_size))
        self.table: Tensor
        self.token_ordering: Tensor

    def geometry(self, length: int) -> Geometry:
        """What the rounds of rows 0..length-1 see: keys 0..t, within the window of the bonus token's position."""
        device = self.table.device
        rows = torch.arange(length, device=device)
        gap = rows[:, None] - rows[None, :]
        at = rows + 1 if self.rope_position == "P" else rows
        masks: dict[str, Tensor] = {}
        ropes: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in self.config.text.layers:
            if layer.kind in masks:
                continue
            seen = gap >= 0
            # The window of position t + 1 begins at t + 2 - W.
            masks[layer.kind] = seen & (gap <= layer.window - 2) if layer.window else seen
            frequencies = torch.zeros(layer.head_dim // 2)
            given = torch.from_numpy(self.config.text.inv_freq(layer.kind))
            frequencies[: len(given)] = given
            angle = at[:, None].float() * frequencies.to(device)[None, :]
            angle = torch.cat((angle, angle), dim=-1)
            ropes[layer.kind] = (angle.cos(), angle.sin())
        return Geometry(masks, ropes)

    def step(self, embedded: Tensor, hidden: Tensor, kv: KeyValues, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """One step of all rounds.

        Args:
            embedded: the last tokens' scaled target embeddings, hidden: what was fed back, both [B, T, backbone].

        Returns:
            normed [B, T, hidden], of which the logits are ``normed @ table.T``, and the next hidden state.
        """
        x = self.pre_projection(torch.cat((embedded, hidden), dim=-1))
        for layer, module in zip(self.config.text.layers, self.model.layers, strict=True):
            x = module(x, geometry.ropes[layer.kind], kv[layer.kind], geometry.masks[layer.kind])
        normed: Tensor = self.model.norm(x)
        return normed, self.post_projection(normed)

    def owner(self) -> Tensor:
        """Cluster of every token, int64 [vocab]."""
        vocab = self.config.text.vocab_size
        owner = torch.empty(vocab, dtype=torch.long, device=self.table.device)
        size = vocab // self.config.num_centroids
        owner[self.token_ordering] = torch.arange(vocab, device=self.table.device) // size
        return owner

    @torch.no_grad()
    def draft(self, normed: Tensor) -> Tensor:
        """Argmax as served, through the centroid head if there is one: normed [N, hidden] -> int64 [N]."""
        out = torch.empty(len(normed), dtype=torch.long, device=normed.device)
        for at in range(0, len(normed), 256):
            part = normed[at : at + 256].float()
            if self.centroids is None:
                out[at : at + 256] = (part @ self.table.T).argmax(-1)
                continue
            chosen = self.centroids(part).topk(self.config.centroid_top_k, dim=-1).indices
            tokens = self.token_ordering.view(self.config.num_centroids, -1)[chosen].flatten(1)
            logits = torch.bmm(self.table[tokens], part[:, :, None])[:, :, 0]
            out[at : at + 256] = tokens.gather(1, logits.argmax(-1, keepdim=True))[:, 0]
        return out
