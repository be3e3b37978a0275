"""Softmax attention of one row in NumPy, over both formats of keys and values."""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32
from geminate.backends.kv_planes import Int8Planes, hadamard, hadamard_block, quantized_head
from geminate.backends.kv_rings import rings
from geminate.kv.store import BLOCK, KVStore
from geminate.plan.nodes import Attention


def softmax(x: F32) -> F32:
    """exp(x - max) / sum, along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: F32 = e / e.sum(axis=-1, keepdims=True)
    return out


def attention(q: F32, node: Attention, position: int, cache: KVStore) -> F32:
    """What the heads of the row at ``position`` read: q and result float32 [heads * head_dim]."""
    last = position if node.include_self else position - 1
    first = max(0, position - node.window + 1) if node.window else 0
    heads = q.reshape(node.kv_heads, -1, node.head_dim)
    held = rings(cache).planes[node.slot]
    if isinstance(held, Int8Planes):
        return _over_codes(heads, held, rings(cache).ring_rows(node.slot, first, last + 1), first)
    keys, values = cache.rows(node.slot, first, last + 1)
    weights = softmax(np.einsum("ghd,gkd->ghk", heads, keys))
    out: F32 = np.einsum("ghk,gkd->ghd", weights, values).reshape(-1).astype(np.float32)
    return out


def _over_codes(heads: F32, held: Int8Planes, rows: np.ndarray, first: int) -> F32:
    """Queries quantized as keys are; probabilities times value scales quantized in each tile of `BLOCK` positions."""
    keys, values, key_scales, value_scales = held.codes(rows)
    part = np.float32(1 / hadamard_block(heads.shape[-1]))
    codes, scale = quantized_head(hadamard(heads))
    scores = np.einsum("ghd,gkd->ghk", codes.astype(np.float32), keys)
    scores = scores * (scale * part)[..., None] * key_scales[:, None]
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out = np.zeros_like(heads)
    tiles = (first + np.arange(len(rows))) // BLOCK
    for tile in np.unique(tiles):
        seen = tiles == tile
        weight = p[..., seen] * value_scales[:, None, seen]
        unit = np.maximum(weight.max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(255)
        out += unit * np.einsum("ghk,gkd->ghd", np.rint(weight / unit), values[:, seen])
    turned: F32 = hadamard(out / p.sum(axis=-1, keepdims=True)) * part
    return turned.reshape(-1)
