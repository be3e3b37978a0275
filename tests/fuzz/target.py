"""What a fuzzing target is, and the loop that runs one."""

from __future__ import annotations

import hashlib
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SEEDS = Path(__file__).resolve().parent / "seeds"
SECONDS, GIGABYTE = 10, 1 << 30  # what one input may take


class Target(Protocol):
    """Makes inputs and tries them. An input is bytes, so that it can be kept in a file and tried again."""

    name: str

    def make(self, rng: random.Random) -> bytes:
        """A new input."""
        ...

    def seeds(self) -> list[bytes]:
        """Inputs that are tried first: the committed ones, old failures among them."""
        ...

    def attempt(self, data: bytes) -> str | None:
        """What went wrong with an input, or None."""
        ...

    def close(self) -> str | None:
        """Stop what runs; what is wrong after all inputs, or None."""
        ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a target fared."""

    name: str
    executions: int
    failures: dict[str, str]  # file of the input -> what went wrong
    seconds: float

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.executions} executions, {len(self.failures)} failures, {self.seconds:.0f} s"]
        alike: dict[str, list[tuple[str, str]]] = {}
        for file, what in self.failures.items():
            alike.setdefault(re.sub(r"req_\w+|0x[0-9a-f]+|\d+", "0", what), []).append((file, what))
        for (file, what), *others in alike.values():
            lines.append(f"  {file}: {what}" + (f" (and {len(others)} more like it)" if others else ""))
        return "\n".join(lines)


def run(target: Target, *, seconds: float, seed: int, keep: Path) -> Report:
    """Try seeds, then new inputs until the time is over; every failing input is kept under ``keep``."""
    rng, failures, executions = random.Random(seed), {}, 0
    started = time.monotonic()
    waiting = target.seeds()
    try:
        while waiting or time.monotonic() - started < seconds:
            data = waiting.pop(0) if waiting else target.make(rng)
            wrong = target.attempt(data)
            executions += 1
            if wrong is not None:
                failures[str(kept(keep, data))] = wrong
    finally:
        at_end = target.close()
    if at_end is not None:
        failures["(at the end)"] = at_end
    return Report(name=target.name, executions=executions, failures=failures, seconds=time.monotonic() - started)


def kept(folder: Path, data: bytes) -> Path:
    """Write an input under a name made of its content."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / hashlib.sha256(data).hexdigest()[:16]
    file.write_bytes(data)
    return file
