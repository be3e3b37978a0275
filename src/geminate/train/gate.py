"""Whether a new drafter is better than the old one, as served: acceptance length on held-out prompts, per category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from geminate.engine import Engine
from geminate.llm import LLM
from geminate.params import ResolvedSampling
from geminate.train.prompts import Example

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Served:
    """What decoding one held-out prompt took: rounds that verified guesses, and tokens they emitted."""

    category: str
    rounds: int
    tokens: int


@dataclass(frozen=True)
class Comparison:
    """Acceptance lengths of one category (or all), and the interval of their difference (new - old)."""

    category: str
    prompts: int
    old: float
    new: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "category": self.category, "prompts": self.prompts, "old": round(self.old, 4), "new": round(self.new, 4),
            "difference_95": [round(self.low, 4), round(self.high, 4)],
        }  # fmt: skip


def serve(
    engine: Engine, examples: list[Example], sampling: Callable[[Example], ResolvedSampling], k: int,
    on_done: Callable[[], None] | None = None,
) -> list[Served]:  # fmt: skip
    """Decode every prompt with k guesses a round (0 for plain) through the engine."""
    found = []
    for example in examples:
        sequence = engine.add(example.prompt, sampling(example), speculation=k, choice=int(example.key[:7], 16))
        engine.run()
        stats = sequence.stats
        found.append(Served(example.category, stats.rounds, stats.generated_tokens))
        if on_done is not None:
            on_done()
    return found


def serve_drafter(
    llm: LLM, examples: list[Example], sampling: Callable[[Example], ResolvedSampling], k: int,
    on_done: Callable[[], None] | None = None,
) -> list[Served]:  # fmt: skip
    """As `serve`; without a drafter every round emits one token."""
    return serve(llm.engine, examples, sampling, k if llm.pair.drafter is not None else 0, on_done)


def compare(old: list[Served], new: list[Served]) -> list[Comparison]:
    """All together first, then by category; intervals by a paired bootstrap over prompts (Efron 1979), seeded."""
    rng = np.random.default_rng(0)
    groups = ["all", *sorted({s.category for s in old})]
    if len(groups) == 2:
        groups = ["all"]
    out = []
    for group in groups:
        at = [i for i, s in enumerate(old) if group == "all" or s.category == group]
        counts = np.array([[old[i].tokens, old[i].rounds, new[i].tokens, new[i].rounds] for i in at], dtype=np.float64)
        picks = rng.integers(0, len(at), size=(RESAMPLES, len(at)))
        sums = counts[picks].sum(axis=1)
        differences = sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(differences, [tail, 100 - tail])
        whole = counts.sum(axis=0)
        out.append(Comparison(group, len(at), whole[0] / whole[1], whole[2] / whole[3], float(low), float(high)))
    return out


def is_better(comparisons: list[Comparison]) -> bool:
    """All prompts together better beyond doubt, and no category worse beyond doubt."""
    return comparisons[0].low > 0 and all(c.high >= 0 for c in comparisons[1:])
