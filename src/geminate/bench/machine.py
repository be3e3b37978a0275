"""The machine a figure belongs to, and its ceilings."""

from __future__ import annotations

import os
import platform

import numpy as np

from geminate.ops.native import NativeBackend
from geminate.types import U8


def describe() -> str:
    """Processor name, core count, Python version."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def available_bytes() -> int | None:
    """Memory that can be used without swapping, or None where the system does not say."""
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class Ceilings:
    """Probes of read bandwidth and int8 peak, taken in turn with what they are compared to.

    The machine has modes (other tenants, two virtual processors on one core), so a ceiling counts only for
    the moment it was measured in.
    """

    BYTES = 1 << 28  # far beyond the caches

    def __init__(self, backend: NativeBackend) -> None:
        self.backend = backend
        self._data: U8 = np.ones(self.BYTES, dtype=np.uint8)

    def bandwidth(self) -> float:
        """Bytes a second all threads together read."""
        return self.BYTES / self.backend.read_seconds(self._data)

    def int8_peak(self) -> float:
        """int8 multiply-accumulates a second of all threads together."""
        return self.backend.multiply_rate()
