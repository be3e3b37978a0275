"""From processed logits to the tokens that may be drawn: temperature, top_k, top_p, min_p; see `sampling`.

What is kept is always a beginning of one order: falling value, then rising index.
"""

from __future__ import annotations

import math

import numpy as np

from geminate.arrays import F32, F64, I64
from geminate.elementary import log_scalar, weights

# Tokens examined first when only top_p truncates; most nuclei of a language model are smaller.
_NUCLEUS_BLOCK = 512
# Values folded into one maximum before a vocabulary is searched for its largest few.
_FOLD = 64
# A lower temperature counts as this one: its reciprocal is finite.
LEAST_TEMPERATURE = 1e-300


def truncated(x: F32 | F64, temperature: float, top_k: int, top_p: float, min_p: float) -> tuple[I64, F64]:
    """The indices that may be drawn, and their logits over the temperature.

    Args:
        x: [n], no NaN; -inf has no probability, and one value at least is finite.
        temperature: > 0. top_k: 0 keeps all.

    Returns:
        int64 [s] ascending, s >= 1, and float64 [s], (x - max x) / temperature.
    """
    ids, x = largest(x, top_k if 0 < top_k < len(x) else len(x))
    with np.errstate(over="ignore"):  # -inf where a tiny temperature leaves no probability
        scaled = (x - x.max()) * (1.0 / max(temperature, LEAST_TEMPERATURE))
    if top_p < 1.0:
        keep = _nucleus(x, scaled, top_p)
        ids, scaled = ids[keep], scaled[keep]
    alive = scaled > -np.inf
    if min_p > 0.0:
        alive &= scaled >= log_scalar(min_p)
    return (ids, scaled) if alive.all() else (ids[alive], scaled[alive])


def largest(x: F32 | F64, k: int) -> tuple[I64, F64]:
    """The k largest, lowest indices first among equals: indices int64 [k] ascending, values float64 [k]."""
    if k == len(x):
        return np.arange(len(x), dtype=np.int64), x.astype(np.float64)
    ids: I64 = np.arange(len(x), dtype=np.int64)
    columns = len(x) // _FOLD
    if columns > k:
        # k columns have a maximum >= bound, so k values are >= bound: the rest need not be partitioned.
        peaks = x[: columns * _FOLD].reshape(_FOLD, columns).max(axis=0)
        bound = np.partition(peaks, columns - k)[columns - k]
        ids = np.flatnonzero(x >= bound).astype(np.int64, copy=False)
    values = x[ids]
    cut = np.partition(values, len(values) - k)[len(values) - k]
    keep = np.flatnonzero(values >= cut)
    if len(keep) > k:
        tied = np.flatnonzero(values[keep] == cut)
        keep = np.delete(keep, tied[k - len(keep) :])
    return ids[keep], values[keep].astype(np.float64)


def _nucleus(x: F64, scaled: F64, top_p: float) -> I64:
    """Indices, ascending, of the tokens that top_p keeps of values ``x`` [n], falling order, ties by index.

    Sorts the largest few only and takes more of them until their mass suffices.
    """
    mass_of = weights(scaled)
    limit = math.ceil(top_p * float(mass_of.sum()))
    block = min(_NUCLEUS_BLOCK, len(x))
    while True:
        head, values = largest(x, block)
        order = head[np.argsort(-values, kind="stable")]
        mass = np.cumsum(mass_of[order])
        # Token i stays while the mass before it is below the limit.
        kept = int(np.searchsorted(mass, limit, side="left")) + 1
        if kept <= block or block == len(x):
            return np.sort(order[: min(kept, block)])
        block = min(block * 8, len(x))
