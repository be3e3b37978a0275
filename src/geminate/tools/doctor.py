"""What this machine is and what of Geminate works on it: the first thing that a report of a problem should hold."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from geminate import __version__, machine
from geminate.backends.select import built_kernels, make_backend, native_backend
from geminate.cores import pick_threads
from geminate.errors import ParameterError
from geminate.kv.store import ARITHMETIC
from geminate.tools.bench.ceilings import Ceilings
from geminate.weights.cache import cache_directory, cache_limit

EXTRAS = {"server": "fastapi", "train": "torch"}
FEATURES = (
    "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "amx_int8",
    "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip
"""Of what /proc/cpuinfo names."""


def examine(*, measure: bool = True) -> dict[str, Any]:
    """All findings, JSON-ready.

    Args:
        measure: whether bandwidth and int8 rate are measured, which takes about a second.

    Returns:
        ``problems`` has what should be mended, each as a sentence; nothing else is an opinion.
    """
    problems: list[str] = []
    threads = pick_threads()
    found: dict[str, Any] = {
        "geminate": __version__,
        "arithmetic": ARITHMETIC,
        "package": str(Path(__file__).resolve().parent.parent),
        "python": f"{platform.python_implementation()} {platform.python_version()}, NumPy {np.__version__}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "machine": machine.describe(),
        "features": _features(),
        "threads": {"count": threads.count, "why": threads.why},
        "memory": {"free_bytes": machine.available_bytes()},
        "kernels": _kernels(problems),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("GEMINATE_")},
        "cache": _cache(problems),
        "extras": {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()},
        "problems": problems,
    }
    if measure and found["kernels"]["native"]:
        ceilings = Ceilings(native_backend(threads.count))
        ceilings.bandwidth()  # the first reading touches the pages
        found["rates"] = {
            "bandwidth_gbps": round(max(ceilings.bandwidth() for _ in range(3)) / 1e9, 1),
            "int8_gmacs": round(max(ceilings.int8_peak() for _ in range(3)) / 1e9, 1),
        }
    return found


def _features() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    words = set(lines[0].split()) if lines else set()
    return [name for name in FEATURES if name in words]


def _kernels(problems: list[str]) -> dict[str, Any]:
    built = built_kernels()
    if built.file is None:
        problems.append(f"models run on NumPy, which is slow: the native kernels {built.absent}")
    elif built.arithmetic != ARITHMETIC:
        problems.append(f"{built.file} belongs to another version of Geminate: reinstall")
    elif built.isas[0] == "scalar":
        problems.append("only the portable kernels run on this processor, which are 20 to 100 times slower than AVX2")
    used = None
    if built.file is None or built.arithmetic == ARITHMETIC:
        used = make_backend(1).isa
    return {"native": built.file is not None, "file": built.file, "isas": built.isas, "used": used}


def _cache(problems: list[str]) -> dict[str, Any]:
    path = cache_directory()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    writable = os.access(nearest, os.W_OK)
    if not writable:
        problems.append(
            f"packed weights cannot be kept in {path}: set GEMINATE_CACHE to a directory that can be written"
        )
    files = [file for file in path.glob("**/*") if file.is_file()] if path.is_dir() else []
    try:
        limit = cache_limit()
    except ParameterError as error:
        limit = None
        problems.append(str(error))
    return {
        "path": str(path),
        "writable": writable,
        "bytes": sum(file.stat().st_size for file in files),
        "limit_bytes": limit,
        "free_bytes": shutil.disk_usage(nearest).free,
    }


def sentences(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The findings as pairs of a heading and a text."""
    used, cache = found["kernels"], found["cache"]
    memory, rates = found["memory"]["free_bytes"], found.get("rates")
    absent = [name for name, there in found["extras"].items() if not there]
    lines = [
        ("geminate", f"{found['geminate']} (arithmetic {found['arithmetic']}) in {found['package']}"),
        ("python", f"{found['python']} ({sys.executable})"),
        ("system", found["system"]),
        ("processor", f"{found['machine']}; {', '.join(found['features']) or 'features unknown'}"),
        ("threads", f"{found['threads']['count']}: {found['threads']['why']}"),
        ("memory", "unknown" if memory is None else f"{memory / 1e9:.1f} GB free"),
        ("kernels", f"{used['used'] or 'none'}; of this build and machine: {', '.join(used['isas']) or 'NumPy alone'}"),
        ("native module", used["file"] or "not built"),
    ]
    if rates is not None:
        read = f"{rates['bandwidth_gbps']} GB/s read, {rates['int8_gmacs']} G int8 multiply-accumulates/s"
        lines.append(("rates", f"{read} with {found['threads']['count']} threads"))
    limit = "no limit" if cache["limit_bytes"] is None else f"at most {cache['limit_bytes'] / 1e9:.1f} GB"
    kept = f"{cache['bytes'] / 1e9:.2f} GB kept, {limit}, {cache['free_bytes'] / 1e9:.1f} GB free on that disk"
    lines.append(("cache", f"{cache['path']}: {kept}"))
    lines.append(("extras", "all installed" if not absent else f"not installed: {', '.join(absent)}"))
    lines += [("variable", f"{name}={value}") for name, value in found["environment"].items()]
    lines += [("problem", problem) for problem in found["problems"]]
    return lines
