"""Rows of GGUF block formats: random ones, and plain rounding to those that the gguf package cannot make."""

from __future__ import annotations

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

from geminate.backends import select
from geminate.formats.blocks import LOOKED_UP
from geminate.formats.matrix import PackedMatrix
from geminate.formats.table import BLOCK_FORMATS, Codes, WeightFormat

HALVES = {"q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q5_0": (0,), "q5_1": (0, 2), "iq4_nl": (0,)}  # their bytes
OWN = (T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL)


def kind(fmt: WeightFormat) -> T:
    """The gguf package's number of a format."""
    return T[fmt.upper()]


def random_rows(fmt: WeightFormat, n: int, k: int, seed: int = 0) -> np.ndarray:
    """Rows of random blocks, uint8 [n, bytes], with scales of either sign around 0.01."""
    g, blocks = np.random.default_rng(seed), BLOCK_FORMATS[fmt]
    raw = g.integers(0, 256, (n, k // blocks.columns, blocks.nbytes), dtype=np.uint8)
    for at in HALVES[fmt]:
        halves = (g.standard_normal(raw.shape[:2]) * 0.01).astype(np.float16)
        raw[..., at : at + 2] = halves[..., None].view(np.uint8)
    return raw.reshape(n, -1)


def packed_rows(fmt: WeightFormat, rows: np.ndarray, k: int, stack: int = 1) -> PackedMatrix:
    """Stored rows uint8 [stack * n, bytes] as a packed matrix, or a stack of them."""
    layout = select.layout(fmt)
    parts = []
    for some in np.split(rows, stack):
        values, records = BLOCK_FORMATS[fmt].unpack(some)
        parts.append(layout.pack(Codes(values=values, scales=records)))
    planes = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    return PackedMatrix(format=fmt, n=len(rows) // stack, k=k, planes=planes, layout=layout, stack=stack)


def random_matrix(fmt: WeightFormat, n: int, k: int, seed: int = 0, stack: int = 1) -> PackedMatrix:
    """A packed matrix [n, k] of random blocks, or a stack of them."""
    return packed_rows(fmt, random_rows(fmt, stack * n, k, seed), k, stack)


def quantized(values: np.ndarray, to: T) -> np.ndarray:
    """float32 [..., k] as blocks, uint8 [..., bytes]."""
    if to not in OWN:
        made: np.ndarray = gguf.quantize(values, to)
        return made
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, values.shape[-1])
    blocks = _iq4_nl(rows) if to == T.IQ4_NL else _q6_k(rows) if to == T.Q6_K else _k(rows, five=to == T.Q5_K)
    return blocks.reshape(*values.shape[:-1], -1)


def _half(values: np.ndarray) -> np.ndarray:
    """float32 [...] as float16 bytes [..., 2]."""
    return np.ascontiguousarray(values.astype("<f2")[..., None]).view(np.uint8)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def _k(rows: np.ndarray, *, five: bool) -> np.ndarray:
    most = 31 if five else 15
    groups = rows.reshape(len(rows), -1, 8, 32)
    low = np.minimum(groups.min(axis=-1), 0)
    step = (groups.max(axis=-1) - low) / most
    d, dmin = _half(step.max(axis=-1) / 63), _half(-low.min(axis=-1) / 63)
    wide, minima = d.view("<f2").astype(np.float32), dmin.view("<f2").astype(np.float32)  # [n, blocks, 1]
    sc, m = (np.clip(np.rint(_ratio(v, by)), 0, 63) for v, by in ((step, wide), (-low, minima)))
    q = np.clip(np.rint(_ratio(groups + (minima * m)[..., None], (wide * sc)[..., None])), 0, most).astype(np.uint8)
    s, t = sc.astype(np.uint8), m.astype(np.uint8)
    small = (s[..., :4] | s[..., 4:] >> 4 << 6, t[..., :4] | t[..., 4:] >> 4 << 6, s[..., 4:] & 15 | t[..., 4:] << 4)
    low_bits = (q & 15).reshape(*q.shape[:2], 4, 2, 32)
    nibbles = (low_bits[..., 0, :] | low_bits[..., 1, :] << 4).reshape(*q.shape[:2], 128)
    fifths = np.bitwise_or.reduce(q >> 4 << np.arange(8, dtype=np.uint8)[:, None], axis=2)
    parts = [d, dmin, *small, *([fifths] if five else []), nibbles]
    return np.concatenate(parts, axis=-1).astype(np.uint8).reshape(len(rows), -1)


def _q6_k(rows: np.ndarray) -> np.ndarray:
    parts = rows.reshape(len(rows), -1, 16, 16)
    step = np.abs(parts).max(axis=-1) / 31
    d = _half(step.max(axis=-1) / 127)
    wide = d.view("<f2").astype(np.float32)
    sc = np.clip(np.rint(_ratio(step, wide)), 0, 127)
    q = (np.clip(np.rint(_ratio(parts, (wide * sc)[..., None])), -32, 31) + 32).astype(np.uint8)
    low = (q & 15).reshape(*q.shape[:2], 2, 2, 64)  # halves of 128: 64 columns in low nibbles, 64 in high ones
    high = (q >> 4).reshape(*q.shape[:2], 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    nibbles = (low[..., 0, :] | low[..., 1, :] << 4).reshape(*q.shape[:2], 128)
    highs = np.bitwise_or.reduce(high, axis=3).reshape(*q.shape[:2], 64)
    return np.concatenate((nibbles, highs, sc.astype(np.uint8), d), axis=-1).reshape(len(rows), -1)


def _iq4_nl(rows: np.ndarray) -> np.ndarray:
    groups = rows.reshape(len(rows), -1, 32)
    d = _half(np.abs(groups).max(axis=-1) / 113)
    wide = d.view("<f2").astype(np.float32)
    q = np.abs(_ratio(groups, wide)[..., None] - LOOKED_UP.astype(np.float32)).argmin(axis=-1).astype(np.uint8)
    return np.concatenate((d, q[..., :16] | q[..., 16:] << 4), axis=-1).reshape(len(rows), -1)
