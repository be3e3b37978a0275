"""The block formats of GGUF files, taken as they are stored: codes, scales and minima of blocks of 32 or 256 weights.

A weight is d * sc * code - dmin * m. d and dmin are float16 numbers of a block; sc and m small integers of 32 weights
(of 16 in Q6_K), 1 and 0 in the formats without them. Products with float32 follow in the order of that formula, so
the results are those of the gguf package, bit for bit. Layout of the blocks: ggml-org/ggml, src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geminate.arrays import F32, I8, I32, U8, U16

GROUP = 32  # columns whose activations share a scale
# IQ4_NL's codes stand for these.
LOOKED_UP = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """How a format's weights come in blocks.

    A row has a record for each of its blocks: float16 numbers (d, then dmin) and bytes (all sc, then all m), together
    as uint16 words.

    Attributes:
        columns: of a block. nbytes: of a block in a file.
        halves: float16 numbers of a record. small: bytes of a record. part: columns that share one sc.
        unpack: stored rows uint8 [n, bytes] to codes int8 [n, k] and records uint16 [n, blocks * words]; codes are
            those of the file but for an offset that makes Q6_K's and Q5_0's signed. Q5_1's minimum has its sign turned.
        table: what codes stand for, int8 [16]; None: for themselves.
    """

    columns: int
    nbytes: int
    halves: int
    small: int
    part: int
    unpack: Callable[[U8], tuple[I8, U16]]
    table: I8 | None = None

    @property
    def words(self) -> int:
        """uint16 words of a record."""
        return self.halves + self.small // 2

    def integers(self, values: I8) -> I32:
        """What multiplies d * sc: codes of any shape as integers."""
        looked = values if self.table is None else self.table[values]
        return looked.astype(np.int32)

    def steps(self, records: U16) -> tuple[F32, F32 | None]:
        """d * sc of each ``part`` columns and dmin * m of each 32, both exact: float32 [n, parts], [n, groups] or None.

        Args:
            records: uint16 [n, blocks * words].
        """
        n = len(records)
        by_block = records.reshape(n, -1, self.words)
        halves = np.ascontiguousarray(by_block[..., : self.halves]).view(np.float16).astype(np.float32)
        if not self.small:
            return halves[..., 0], halves[..., 1] if self.halves == 2 else None
        small = np.ascontiguousarray(by_block[..., self.halves :]).view(np.uint8)
        if self.halves == 1:
            return (halves[..., :1] * small.view(np.int8).astype(np.float32)).reshape(n, -1), None
        scales, minima = np.split(small.astype(np.float32), 2, axis=-1)
        return (halves[..., :1] * scales).reshape(n, -1), (halves[..., 1:] * minima).reshape(n, -1)

    def dequantize(self, values: I8, records: U16) -> F32:
        """Codes int8 [n, k] and their records as float32 [n, k]."""
        n, k = values.shape
        steps, minima = self.steps(records)
        codes = np.zeros((n, steps.shape[1] * self.part), dtype=np.float32)
        codes[:, :k] = self.integers(values)
        wide = codes.reshape(n, -1, self.part) * steps[..., None]
        if minima is not None:
            wide = wide.reshape(n, -1, GROUP) - minima[..., None]
        out: F32 = wide.reshape(n, -1)[:, :k]
        return out

    def finite(self, records: U16) -> bool:
        """Whether all float16 numbers of the records are."""
        halves = records.reshape(-1, self.words)[:, : self.halves]
        return bool(((halves & np.uint16(0x7C00)) != 0x7C00).all())


def _in_blocks(rows: U8, nbytes: int) -> U8:
    return rows.reshape(len(rows), -1, nbytes)


def _nibbles(packed: U8) -> U8:
    """[..., 16] as [..., 32]: all low nibbles, then all high ones."""
    return np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=-1)


def _words(record: U8) -> U16:
    """Bytes of records [n, blocks, bytes] as uint16 [n, words]."""
    words: U16 = np.ascontiguousarray(record).view("<u2").reshape(len(record), -1)
    return words


def _codes(values: np.ndarray) -> I8:
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.int8)


def _small_scales(packed: U8) -> U8:
    """Twelve bytes with eight scales and eight minima of six bits: uint8 [..., 16], scales first.

    The four low bits of groups 4 to 7 stand in the last four bytes, their high bits above those of groups 0 to 3.
    """
    first, second, third = (packed[..., i : i + 4] for i in (0, 4, 8))
    low, high, two = np.uint8(15), np.uint8(4), np.uint8(0x30)
    scales = ((third & low) | ((first >> np.uint8(2)) & two), (third >> high) | ((second >> np.uint8(2)) & two))
    six = np.uint8(63)
    return np.concatenate((first & six, scales[0], second & six, scales[1]), axis=-1)


def _unpack_q4_k(rows: U8) -> tuple[I8, U16]:
    blocks = _in_blocks(rows, 144)
    record = np.concatenate((blocks[..., :4], _small_scales(blocks[..., 4:16])), axis=-1)
    pairs = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)  # 64 columns: all low nibbles, then all high ones
    codes = np.stack((pairs & np.uint8(15), pairs >> np.uint8(4)), axis=3)
    return _codes(codes), _words(record)


def _unpack_q5_k(rows: U8) -> tuple[I8, U16]:
    blocks = _in_blocks(rows, 176)
    record = np.concatenate((blocks[..., :4], _small_scales(blocks[..., 4:16])), axis=-1)
    pairs = blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)
    codes = np.stack((pairs & np.uint8(15), pairs >> np.uint8(4)), axis=3).reshape(*blocks.shape[:2], 8, 32)
    bits = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]
    return _codes(codes | ((bits & np.uint8(1)) << np.uint8(4))), _words(record)


def _unpack_q6_k(rows: U8) -> tuple[I8, U16]:
    blocks = _in_blocks(rows, 210)
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None]
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    shape = (*blocks.shape[:2], 256)
    codes = (low & np.uint8(15)).reshape(shape) | ((high & np.uint8(3)) << np.uint8(4)).reshape(shape)
    record = np.concatenate((blocks[..., 208:], blocks[..., 192:208]), axis=-1)
    return _codes(codes) - np.int8(32), _words(record)


def _fifth_bits(packed: U8) -> U8:
    """[..., 4] as [..., 32], each the value of a fifth bit."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _unpack_q5_0(rows: U8) -> tuple[I8, U16]:
    blocks = _in_blocks(rows, 22)
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return _codes(codes) - np.int8(16), _words(blocks[..., :2])


def _unpack_q5_1(rows: U8) -> tuple[I8, U16]:
    blocks = _in_blocks(rows, 24)
    record = blocks[..., :4].copy()
    record[..., 3] ^= np.uint8(0x80)  # added in the file, taken off here
    return _codes(_nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])), _words(record)


def _unpack_iq4_nl(rows: U8) -> tuple[I8, U16]:
    blocks = _in_blocks(rows, 18)
    return _codes(_nibbles(blocks[..., 2:])), _words(blocks[..., :2])


Q4_K = Blocks(columns=256, nbytes=144, halves=2, small=16, part=32, unpack=_unpack_q4_k)
Q5_K = Blocks(columns=256, nbytes=176, halves=2, small=16, part=32, unpack=_unpack_q5_k)
Q6_K = Blocks(columns=256, nbytes=210, halves=1, small=16, part=16, unpack=_unpack_q6_k)
Q5_0 = Blocks(columns=32, nbytes=22, halves=1, small=0, part=32, unpack=_unpack_q5_0)
Q5_1 = Blocks(columns=32, nbytes=24, halves=2, small=0, part=32, unpack=_unpack_q5_1)
IQ4_NL = Blocks(columns=32, nbytes=18, halves=1, small=0, part=32, unpack=_unpack_iq4_nl, table=LOOKED_UP)
