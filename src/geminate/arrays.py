"""Array aliases shared by all layers. Shapes stand in docstrings; these fix the dtypes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
F16: TypeAlias = NDArray[np.float16]
I8: TypeAlias = NDArray[np.int8]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]
U64: TypeAlias = NDArray[np.uint64]


def is_permutation(ids: NDArray[np.integer], n: int) -> bool:
    """Whether ``ids`` holds every number below ``n`` once and nothing else."""
    return ids.shape == (n,) and bool(np.array_equal(np.sort(ids), np.arange(n)))
