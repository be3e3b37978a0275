"""Identifies this machine (CPU, cores, Python) in benchmark reports and cost profiles."""

from __future__ import annotations

import os
import platform


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
    free: int | None = None
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:
        pass
    for limit, used in _GROUPS:
        try:
            with open(limit) as most, open(used) as now:
                left = max(0, int(most.read()) - int(now.read()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        free = left if free is None else min(free, left)
    return free


def physical_cores() -> int:
    """Physical cores this process may run on; hyper-threads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores: set[str] = set()
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as f:
                cores.add(f.read().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))
