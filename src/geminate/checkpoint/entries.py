"""What packing needs of a stored tensor, whatever kind of file holds it."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from geminate.arrays import F32, I8, U16

Grid = Literal["int8", "int4", "q2r", "q4r", "q8r", "q4_k", "q5_k", "q6_k", "q5_0", "q5_1", "iq4_nl"]


class Entry(Protocol):
    """A tensor in a file.

    Attributes:
        name: as the file has it. dtype: the file's word for it (BF16, F32, Q4_0, ...). nbytes: stored bytes.
        offset: of the first stored byte in its file.
        grid: the kernel grid that all stored values lie on, so that packing need not round: ``int8`` is
            w = q * scale with q in -127..127, ``int4`` the same with q in -8..7, one float16 scale per 32 columns;
            ``q2r``, ``q4r``, ``q8r`` have float32 scales per row; the others are the block formats of
            `geminate.formats.blocks`; None for anything else.
        whole_norm: whether norm weights 1 + w are stored as that sum (GGUF) or as w (safetensors).
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def grid(self) -> Grid | None: ...
    @property
    def whole_norm(self) -> bool: ...

    def map(self) -> np.ndarray:
        """All stored numbers, memory-mapped read-only; bfloat16 as uint16 bits, a block format as uint8 rows of blocks.

        Only of tensors that are stored in one of these, or plainly.
        """
        ...

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop of the leading axis as float32 (a copy)."""
        ...

    def codes(self, start: int, stop: int) -> tuple[I8, U16 | F32]:
        """Codes int8 [..., k] and scales of rows start..stop; only where there is a grid.

        Scales are float16 bits [..., k / 32], records [..., blocks * words] of the block formats, or float32
        [rows, blocks] of the grids with scales per row.
        """
        ...
