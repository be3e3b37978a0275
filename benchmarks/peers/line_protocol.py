"""What the workers speak: one JSON line when ready, then a line of milliseconds for every line of standard input.

    step M [R]      R times (1 by default): M tokens of one sequence behind the context, logits of all M rows, undone
    prefill N [R]   R times: N tokens from an empty context, logits of the last row
    quit

A line that cannot be obeyed is answered with ``error`` and the reason.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any, Protocol

PREFIX = 128  # positions before a step, where no other number is asked for
BEHIND = 896  # positions that a context has room for behind the prefix
MAX_ROWS = 32


class Engine(Protocol):
    """One timed pass each, in milliseconds; the state afterwards is the prefix.

    Attributes:
        size: positions that the context has room for.
    """

    size: int

    def step(self, rows: int) -> float:
        """M tokens behind the prefix."""
        ...

    def prefill(self, tokens: int) -> float:
        """N tokens from nothing."""
        ...


def token_ids(count: int) -> list[int]:
    """A context of random tokens, the same in every worker: the prefix, then what steps and prefills feed."""
    draw = random.Random(7)
    return [draw.randrange(1000, 200000) for _ in range(count)]


def _answer(engine: Engine, words: list[str]) -> str:
    if len(words) not in (2, 3) or words[0] not in ("step", "prefill"):
        raise ValueError("expected step M [R], prefill N [R] or quit")
    size, repeats = int(words[1]), int(words[2]) if len(words) == 3 else 1
    limit = MAX_ROWS if words[0] == "step" else engine.size
    if not 1 <= size <= limit or repeats < 1:
        raise ValueError(f"{words[0]} takes 1 to {limit}")
    act = engine.step if words[0] == "step" else engine.prefill
    return " ".join(f"{act(size):.3f}" for _ in range(repeats))


def serve(engine: Engine, ready: dict[str, Any]) -> None:
    """Say ready and answer until ``quit`` or the end of input."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        if not words:
            continue
        try:
            answer = _answer(engine, words)
        except ValueError as error:
            answer = f"error {error}"
        print(answer, flush=True)
