"""Teacher targets: the served target's outputs for a text (hidden states, donors' keys and values, logits)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geminate.arrays import F32, I32
from geminate.runtime.target import TargetModel
from geminate.tools.train.drafter import KeyValues

LIKELIEST = 32  # tokens of a target distribution that are kept; the rest is some per cent of it
HEAD_BYTES = 64 << 20  # float32 logits of one pass


@dataclass(frozen=True)
class TeacherTargets:
    """The target's outputs for one text of T tokens.

    Attributes:
        ids: int64 [T]. prompt: how many of them are the prompt.
        embedded: float32 [T, backbone], scaled embeddings. hidden: float32 [T, backbone], after the last norm.
        kv: keys and values of the donor layers by kind, float32 [kv_heads, T, head_dim].
        top_ids: int64 [T, m], most likely next tokens of every row, best first; top_logits: float32 [T, m].
    """

    ids: Tensor
    prompt: int
    embedded: Tensor
    hidden: Tensor
    kv: KeyValues
    top_ids: Tensor
    top_logits: Tensor


class Teacher:
    """Runs texts through a compiled target.

    Args:
        target: with its weights in the quantization that is served.
    """

    def __init__(self, target: TargetModel) -> None:
        self.target = target
        config = target.config
        # As the drafter's plan: the last layer of each kind that computes keys and values.
        self.donors = {la.kind: la.index for la in config.layers if not la.kv_shared}
        most = HEAD_BYTES // (4 * config.vocab_size)
        self.chunk = max(1, min(target.max_rows, most))

    def embed(self, ids: I32) -> F32:
        """Scaled target embeddings, float32 [len(ids), backbone]."""
        unique, back = np.unique(ids, return_inverse=True)
        rows = self.target.store.embedding().dequantized_rows(unique.astype(np.int32))
        scaled: F32 = rows[back] * np.float32(self.target.config.embed_scale)
        return scaled

    def targets(self, ids: list[int], prompt: int) -> TeacherTargets:
        """One text; see `TeacherTargets`."""
        array = np.array(ids, dtype=np.int32)
        cache = self.target.new_cache()
        slots = {kind: self.target.slots[at] for kind, at in self.donors.items()}
        shapes = {kind: (spec.kv_heads, len(ids), spec.head_dim) for kind, spec in slots.items()}
        kv = {kind: (np.empty(s, np.float32), np.empty(s, np.float32)) for kind, s in shapes.items()}
        hidden = np.empty((len(ids), self.target.config.hidden_size), dtype=np.float32)
        m = min(LIKELIEST, self.target.config.vocab_size)
        top_ids, top_logits = torch.empty(len(ids), m, dtype=torch.long), torch.empty(len(ids), m)
        for part in self.target.chunks(array, self.chunk, cache):
            at = slice(cache.length, cache.length + len(part.ids))
            hidden[at], logits = self.target.extend([part])
            best = torch.from_numpy(logits).topk(m, dim=-1)
            top_ids[at], top_logits[at] = best.indices, best.values
            for kind, slot in self.donors.items():
                # A sliding layer's ring forgets: its rows are taken while they are there.
                kv[kind][0][:, at], kv[kind][1][:, at] = cache.rows(slot, at.start, at.stop)
        return TeacherTargets(
            ids=torch.from_numpy(array.astype(np.int64)),
            prompt=prompt,
            embedded=torch.from_numpy(self.embed(array)),
            hidden=torch.from_numpy(hidden),
            kv={kind: (torch.from_numpy(k), torch.from_numpy(v)) for kind, (k, v) in kv.items()},
            top_ids=top_ids,
            top_logits=top_logits,
        )


@dataclass(frozen=True)
class Batch:
    """`TeacherTargets` of B texts, zero-padded to the longest, with a leading axis B; lengths int64 [B, 2]."""

    ids: Tensor
    lengths: Tensor  # prompt, whole
    embedded: Tensor
    hidden: Tensor
    kv: KeyValues
    top_ids: Tensor
    top_logits: Tensor

    @property
    def rows(self) -> int:
        """Tokens, padding left out."""
        return int(self.lengths[:, 1].sum())


def collate(texts: list[TeacherTargets], device: torch.device) -> Batch:
    """A batch on a device."""
    longest = max(len(text.ids) for text in texts)

    def stacked(parts: list[Tensor], axis: int) -> Tensor:
        padded = []
        for part in parts:
            shape = list(part.shape)
            shape[axis] = longest - shape[axis]
            padded.append(torch.cat((part, part.new_zeros(shape)), dim=axis))
        return torch.stack(padded).to(device)

    kinds = texts[0].kv.keys()
    return Batch(
        ids=stacked([text.ids for text in texts], 0),
        lengths=torch.tensor([[text.prompt, len(text.ids)] for text in texts], device=device),
        embedded=stacked([text.embedded for text in texts], 0),
        hidden=stacked([text.hidden for text in texts], 0),
        kv={
            kind: (stacked([text.kv[kind][0] for text in texts], 1), stacked([text.kv[kind][1] for text in texts], 1))
            for kind in kinds
        },
        top_ids=stacked([text.top_ids for text in texts], 0),
        top_logits=stacked([text.top_logits for text in texts], 0),
    )
