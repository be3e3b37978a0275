"""Scales and codes with less error than the plain rule's, and those that bf16 weights already lie on.

Plain rules are in `geminate.formats.rounding`. A group of 32 weights w with scale s has error
sum_j i_j (w_j - s q_j)^2, with importance i (1, or the mean square of the input channel, as llama.cpp's imatrix weighs
it). For given codes the best scale is sum(i w q) / sum(i q q); codes and scale are improved in turns from several
starts.
"""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.checkpoint.entries import Entry
from geminate.formats.rounding import bf16_to_f32, f32_to_bf16, quantize_int4
from geminate.formats.table import FORMATS, WeightFormat, grouped

# Starts: the largest weight of a group at these codes (of -8..7; a negative scale turns the asymmetry round).
STARTS = {"int4": (-8.0, -7.6, -7.2, -6.8, -6.4, 7.4, 7.0, 6.6), "int8": (127.0, 126.0, 125.0, 123.0, 120.0)}
TURNS = 2
SAMPLE_ROWS, SAMPLE_GROUPS = 16, 512  # of a tensor, to see whether it lies on a grid


def quantize_searched(groups: F32, fmt: WeightFormat, importance: F32 | None = None) -> tuple[I8, np.ndarray]:
    """groups [..., 32] -> codes int8 (signed, -8..7 or -127..127) and scales float16 [...], never worse than plain.

    Args:
        importance: float32, broadcast against ``groups``; None weighs all alike.

    Raises:
        WeightsError: weights that are not finite or too large.
    """
    plain = FORMATS[fmt].quantize(groups.reshape(-1, groups.shape[-1]))
    assert plain.scales is not None
    codes: I8 = plain.values.reshape(groups.shape).view(np.int8)
    scales = plain.scales.reshape(groups.shape[:-1]).view(np.float16)
    weight = np.float32(1) if importance is None else importance
    best = _error(groups, codes, scales, weight)
    at = np.abs(groups).argmax(axis=-1)[..., None]
    extreme = np.take_along_axis(groups, at, axis=-1)[..., 0]
    for start in STARTS[fmt]:
        scale = extreme / np.float32(start)
        for _ in range(TURNS):
            q = _codes(groups, scale, fmt)
            norm = (weight * q * q).sum(axis=-1)
            refit = (weight * groups * q).sum(axis=-1)
            scale = np.where(norm > 0, refit / np.where(norm > 0, norm, 1), scale)
        # As it will be stored; what a float16 cannot hold loses by its error.
        half = np.clip(scale, -65504, 65504).astype(np.float16)
        q = _codes(groups, half.astype(np.float32), fmt)
        error = _error(groups, q, half, weight)
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, half, scales)
        codes = np.where(better[..., None], q.astype(np.int8), codes)
    return codes, scales


def _codes(groups: F32, scale: F32, fmt: WeightFormat) -> F32:
    wide = scale[..., None]
    ratio = np.divide(groups, wide, out=np.zeros_like(groups), where=wide != 0)
    q: F32 = np.clip(np.rint(ratio), FORMATS[fmt].lowest, FORMATS[fmt].highest)
    return q


def _error(groups: F32, codes: np.ndarray, scales: np.ndarray, weight: F32 | np.float32) -> F32:
    off = groups - codes.astype(np.float32) * scales.astype(np.float32)[..., None]
    error: F32 = (weight * off * off).sum(axis=-1)
    return error


def on_int4_grid(groups: F32) -> tuple[I8, np.ndarray, np.ndarray]:
    """Scales and codes of bf16 weights that are the bf16 rounding of a Q4_0 grid (quantization-aware training).

    A group's largest weight has some code c; a scale near w / c is right if every weight of the group is, bit for bit,
    the bf16 of scale x code. Rounding leaves an interval of scales for every weight; the float16 nearest to the middle
    of their intersection is taken. ggml's own c is -8, which is tried first. Where several float16 scales give the same
    bf16 weights, they cannot be distinguished: the codes are the original's, the scale one of these.

    Args:
        groups: float32 [N, 32] holding bfloat16 values.

    Returns:
        codes int8 [N, 32] in -8..7, scales float16 [N], and bool [N]: where they reproduce the group.
    """
    count = len(groups)
    codes, scales = np.zeros((count, 32), dtype=np.int8), np.zeros(count, dtype=np.float16)
    done = np.asarray(np.abs(groups).max(axis=-1) == 0)
    at = np.abs(groups).argmax(axis=-1)[:, None]
    extreme = np.take_along_axis(groups, at, axis=-1)[:, 0]
    for c in (-8, 7, -7, 6, -6, 5, -5, 4, -4, 3, -3, 2, -2, 1, -1):
        left = np.flatnonzero(~done)
        if not len(left):
            break
        x = groups[left]
        near = (extreme[left] / np.float32(c))[:, None]
        q = np.rint(x / near)
        close = (np.abs(x - q * near) <= np.abs(x) * np.float32(2**-6)) & (q >= -8) & (q <= 7)
        ok = close.all(axis=-1)
        left, x, q = left[ok], x[ok], q[ok]
        if not len(left):
            continue
        # The least-squares scale is right for most; the others' interval is worked out, and its float16s tried in turn.
        half = ((x * q).sum(axis=-1) / (q * q).sum(axis=-1)).astype(np.float16)
        for step in (0, None, 1, -2, 3, -4):  # the middle, then +1, -1, +2, -2
            if step is None:
                half = _middle(x, q).astype(np.float16)
            for _ in range(abs(step or 0)):
                half = np.nextafter(half, np.float16(np.inf if step and step > 0 else -np.inf))
            right = (bf16_to_f32(f32_to_bf16(half.astype(np.float32)[:, None] * q)) == x).all(axis=-1)
            codes[left[right]], scales[left[right]] = q[right].astype(np.int8), half[right]
            done[left[right]] = True
            left, x, q, half = left[~right], x[~right], q[~right], half[~right]
            if not len(left):
                break
    return codes, scales, done


def _middle(x: F32, q: F32) -> F32:
    """Middle of the scales that round every nonzero weight right, float32 [N]; x, q [N, 32]."""
    # Half a unit in the last of bf16's 8 significant bits; a float64 holds all of it.
    exponent = np.frexp(np.where(x == 0, 1, x).astype(np.float64))[1] - 1
    half_ulp = np.ldexp(1.0, exponent - 8)
    safe = np.where(q == 0, 1, q).astype(np.float64)
    ends = np.stack(((x - half_ulp) / safe, (x + half_ulp) / safe))
    low = np.where(q == 0, -np.inf, ends.min(axis=0)).max(axis=-1)
    high = np.where(q == 0, np.inf, ends.max(axis=0)).min(axis=-1)
    middle: F32 = ((low + high) / 2).astype(np.float32)
    return middle


def trained_for_int4(entry: Entry) -> bool:
    """Whether bf16 weights lie on a Q4_0 grid, by a sample of their rows; of others, hardly any group does."""
    sample = _groups(entry.rows(0, min(SAMPLE_ROWS, entry.shape[0])).reshape(-1, entry.shape[-1]))[:SAMPLE_GROUPS]
    if not np.isfinite(sample).all():
        return False  # packing reports what is wrong
    _, _, right = on_int4_grid(sample)
    return bool(right.mean() > 0.9) and bool(sample.any())


def recovered(rows: F32) -> tuple[I8, U16]:
    """Codes int8 [n, padded k] and float16 scale bits [n, groups] of weights on a Q4_0 grid.

    Groups that are not on it, if there are any, are rounded by the plain rule.
    """
    groups = _groups(rows)
    codes, scales, right = on_int4_grid(groups)
    if not right.all():
        codes[~right], scales[~right] = quantize_int4(groups[~right])
    return codes.reshape(len(rows), -1), scales.reshape(len(rows), -1).view(np.uint16)


def _groups(rows: F32) -> F32:
    """float32 [n, k] as [n * groups, 32], zeros behind the last column."""
    by_row = grouped(rows)
    return by_row.reshape(-1, by_row.shape[-1])
