"""How many threads to run, and why: physical and fast cores that this process may use, within its processor quota."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from geminate.system import windows_cores

SLOW = 0.5  # of the fastest core's capacity: cores below are left out


@dataclass(frozen=True, kw_only=True)
class Threads:
    """A thread count with its reason.

    Attributes:
        count: at least 1. why: what it was taken from, for people.
    """

    count: int
    why: str


def pick_threads(root: Path = Path("/")) -> Threads:
    """Threads for the kernels of this process.

    Of the processors that it may run on, one for each physical core, without cores of less than half the fastest one's
    capacity (Linux: ``cpu_capacity``, or ``cpu_core`` of hybrid Intel processors; macOS: the first performance level;
    Windows: the highest efficiency class);
    at most the whole processors of the control group's quota, since a thread that is throttled holds up the others.

    Args:
        root: of the file system, for tests.
    """
    if sys.platform == "darwin":
        return _of_macos()
    if sys.platform == "linux":
        return of_linux(os.sched_getaffinity(0), root)
    return of_windows(*windows_cores.count())


def of_linux(allowed: set[int], root: Path) -> Threads:
    """`pick_threads` of a process that may run on these processors."""
    cpus = root / "sys/devices/system/cpu"
    fast = _fast(allowed, root)
    cores = {_text(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in fast}
    count, why = max(1, len(cores)), f"{_counted(len(cores), 'physical core')} of {len(allowed)} usable processors"
    if fast != allowed:
        why = f"{_counted(len(cores), 'fast core')} of {len(allowed)} usable processors, slower ones left out"
    quota = _quota(root)
    if quota is not None and quota < count:
        count, why = max(1, int(quota)), f"a quota of {quota:g} processors, {why}"
    return Threads(count=count, why=why)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _fast(allowed: set[int], root: Path) -> set[int]:
    """The processors without slow ones; all of them where the system does not tell them apart."""
    found = {cpu: _text(root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity") for cpu in allowed}
    capacities = {cpu: int(text) for cpu, text in found.items() if text is not None and text.isdigit()}
    if len(capacities) == len(allowed) and capacities:
        most = max(capacities.values())
        return {cpu for cpu, capacity in capacities.items() if capacity >= SLOW * most}
    performance = parse_list(_text(root / "sys/devices/cpu_core/cpus") or "") & allowed
    return performance or allowed


def parse_list(text: str) -> set[int]:
    """Processor numbers of the kernel's list format, such as ``0-3,8``; empty for anything else."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return set()
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def _quota(root: Path) -> float | None:
    """Processors that the control group (version 2 or 1) grants, or None."""
    both = (_text(root / "sys/fs/cgroup/cpu.max") or "").split()
    if not both:
        v1 = root / "sys/fs/cgroup/cpu"
        both = [_text(v1 / "cpu.cfs_quota_us") or "", _text(v1 / "cpu.cfs_period_us") or ""]
    try:
        quota, period = float(both[0]), float(both[1])
    except (ValueError, IndexError):  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def of_windows(cores: int, fast: int) -> Threads:
    """`pick_threads` of a machine with so many physical cores and fast ones; has not been tried on Windows."""
    if not cores:
        return Threads(count=os.cpu_count() or 1, why=_counted(os.cpu_count() or 1, "processor"))
    if fast < cores:
        return Threads(count=fast, why=f"{_counted(fast, 'fast core')} of {_counted(cores, 'physical core')}")
    return Threads(count=cores, why=_counted(cores, "physical core"))


def _of_macos() -> Threads:
    """Performance cores; has not been tried on a Mac."""
    for name, what in (("hw.perflevel0.physicalcpu", "performance cores"), ("hw.physicalcpu", "physical cores")):
        value, size = ctypes.c_int(0), ctypes.c_size_t(4)
        try:
            failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
        except (OSError, AttributeError):
            break
        if not failed and value.value > 0:
            return Threads(count=value.value, why=f"{value.value} {what}")
    count = os.cpu_count() or 1
    return Threads(count=count, why=f"{count} processors")
