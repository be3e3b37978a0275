"""This machine's rates, probed once and kept: what `geminate show` and `geminate info` compute with."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from geminate import __version__, machine
from geminate.cores import pick_threads
from geminate.replacing import replacing
from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.measure import probe_machine
from geminate.weights.cache import cache_directory


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine.

    Attributes:
        machine: its rates, and the memory that is free now. probed: the day on which the rates were probed.
        quiet: whether nothing else seemed to run then.
    """

    machine: Machine
    probed: str
    quiet: bool = True


def here(threads: int | None = None, *, folder: Path | None = None, again: bool = False) -> Here:
    """The rates of this machine: those kept, or probed now, which takes about two seconds; kept if all was quiet.

    Args:
        threads: None is what `pick_threads` picks. again: probe even if there are kept ones.

    Raises:
        BackendError: the native kernels are not built.
    """
    count = pick_threads().count if threads is None else threads
    path = (folder or cache_directory()) / "machine.json"
    key = f"{machine.describe()}; geminate {__version__}; {count} threads"
    kept = _read(path)
    if not again:
        with suppress(KeyError, TypeError, ValueError):
            return Here(machine=_with_memory(Machine(**kept[key]["machine"])), probed=str(kept[key]["probed"]))
    probed, quiet = probe_machine(count)
    found = Here(machine=probed, probed=time.strftime("%Y-%m-%d"), quiet=quiet)
    if not quiet:
        return found
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ".machine-") as file:
            file.write(json.dumps({**kept, key: {"machine": asdict(found.machine), "probed": found.probed}}).encode())
    return found


def _with_memory(kept: Machine) -> Machine:
    free = machine.available_bytes()
    return kept if free is None else replace(kept, memory_gb=free / 1e9)


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}
