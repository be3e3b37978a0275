"""Logits of a text, pass by pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geminate.arrays import F32, I32
from geminate.plan.batch import Batch, Rows
from geminate.runtime.target import TargetModel


def logits_in_pieces(target: TargetModel, ids: I32, sizes: Sequence[int]) -> F32:
    """Logits float32 [len(ids), vocab] from passes over as many rows as ``sizes`` say, again and again."""
    cache, found, at = target.new_cache(), [], 0
    while at < len(ids):
        part = ids[at : at + sizes[len(found) % len(sizes)]]
        batch = Batch.of([Rows(cache=cache, ids=part, wanted=len(part))])
        cache.reserve(len(part))
        found.append(target.program.run(batch)[1])
        cache.advance(len(part))
        at += len(part)
    return np.concatenate(found)
