"""Products of the block formats as native/contract.h defines them, bit for bit.

A group of 32 products (16 in Q6_K) is one exact integer sum; groups join one float32 chain in ascending order, each
with a fused multiply-add, and a minimum joins behind its group.
"""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32, I32
from geminate.formats.blocks import GROUP, Blocks
from geminate.formats.table import Codes, padded


def fused(a: F32, b: F32 | np.float32, c: F32) -> F32:
    """a * b + c, rounded once: the product is exact in float64, and the sum is rounded to odd before float32."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    # What the addition lost (Knuth's two-sum).
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    towards = np.where((lost > 0) == (total > 0), 1, -1)
    odd = np.where((lost != 0) & (bits & 1 == 0), bits + towards, bits)
    return odd.view(np.float64).astype(np.float32)


def group_codes(x: F32) -> tuple[I32, F32]:
    """Activations [k] as the kernels see them: codes int32 [groups, 32] and a scale for each, float32 [groups]."""
    wide = np.zeros(padded(len(x), GROUP), dtype=np.float32)
    wide[: len(x)] = x
    groups = wide.reshape(-1, GROUP)
    amax = np.abs(groups).max(axis=1)
    seen = amax >= np.float32(1e-30)  # below, the inverse would overflow
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=seen)
    codes = np.rint(groups * inverse[:, None]).astype(np.int32)
    return codes, np.where(seen, amax / np.float32(127), np.float32(0))


def block_product(x: F32, weights: Codes, blocks: Blocks) -> F32:
    """x [k] times rows of codes [n, k]: float32 [n]."""
    assert weights.scales is not None
    activations, scales = group_codes(x)
    minus = -(scales * activations.sum(axis=1).astype(np.float32))
    n, k = weights.values.shape
    codes = np.zeros((n, activations.size), dtype=np.int32)
    codes[:, :k] = blocks.integers(weights.values.view(np.int8))
    steps, minima = blocks.steps(weights.scales.view(np.uint16))
    total = np.zeros(n, dtype=np.float32)
    for at in range(0, activations.size, blocks.part):
        group, within = divmod(at, GROUP)
        part = slice(within, within + blocks.part)
        sums = codes[:, at : at + blocks.part] @ activations[group, part]
        total = fused(sums.astype(np.float32), steps[:, at // blocks.part] * scales[group], total)
        if minima is not None:
            total = fused(minima[:, group], minus[group], total)
    return total
