"""What the machine can do at most, measured in turn with what is compared to it."""

from __future__ import annotations

import numpy as np

from geminate.arrays import U8
from geminate.backends.base import MeasuredBackend


class Ceilings:
    """Probes of read bandwidth and int8 peak, taken in turn with what they are compared to.

    The machine has modes (other tenants, two virtual processors on one core), so a ceiling counts only for
    the moment it was measured in.
    """

    BYTES = 1 << 28  # far beyond the caches

    def __init__(self, backend: MeasuredBackend) -> None:
        self.backend = backend
        self._data: U8 = np.ones(self.BYTES, dtype=np.uint8)

    def bandwidth(self) -> float:
        """Bytes a second all threads together read."""
        return self.BYTES / self.backend.read_seconds(self._data)

    def int8_peak(self) -> float:
        """int8 multiply-accumulates a second of all threads together."""
        return self.backend.multiply_rate()
