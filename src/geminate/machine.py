"""Identifies this machine (CPU, cores, Python) in benchmark reports and cost profiles."""

from __future__ import annotations

import os
import platform

from geminate.system import memory


def describe() -> str:
    """Processor name, core count, Python version."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


# Limit and use of the process's control group, versions 2 and 1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int | None:
    """Memory that can be used without swapping, or None where the system does not say; containers have their own."""
    free = memory.available_bytes()
    for limit, used in _GROUPS:
        try:
            with open(limit) as most, open(used) as now:
                left = max(0, int(most.read()) - int(now.read()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        free = left if free is None else min(free, left)
    return free
