"""What NumPy asks of a processor, found without NumPy: its wheels die of an illegal instruction before they say so."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

_SSE42 = 38  # PF_SSE4_2_INSTRUCTIONS_AVAILABLE


def lacks_sse42(root: Path = Path("/")) -> bool:
    """Whether this is an x86-64 processor from before 2009; no where the system does not say.

    Args:
        root: of the file system, for tests.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if sys.platform == "win32":
        import ctypes

        return not ctypes.WinDLL("kernel32").IsProcessorFeaturePresent(_SSE42)
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return bool(flags) and "sse4_2" not in flags


def why_no_numpy(root: Path = Path("/")) -> str | None:
    """Why NumPy must not be imported, and what to do; None: nothing speaks against it.

    From 2.4 on NumPy's wheels are built for x86-64-v2 (its release notes), of which SSE4.2 is the youngest part.
    """
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        return None
    major, minor, *_ = (*version.split("."), "0")
    new = major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= (2, 4)
    if new and lacks_sse42(root):
        return f"NumPy {version} needs SSE4.2, which this processor lacks; an older one works: pip install 'numpy<2.4'"
    return None
