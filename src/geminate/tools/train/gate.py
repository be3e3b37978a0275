"""Whether a new drafter is better than the old one, as served: acceptance length on held-out prompts, per category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from geminate.engine.messages import EngineRequest
from geminate.llm import LLM
from geminate.params import ResolvedSampling
from geminate.tools.train.prompts import Example

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Served:
    """What decoding one held-out prompt took: rounds that verified drafts, and tokens they emitted.

    Attributes:
        drafted, accepted: how often a draft token was made and accepted, by position.
    """

    category: str
    rounds: int
    tokens: int
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()


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
            "category": self.category,
            "prompts": self.prompts,
            "old": round(self.old, 4),
            "new": round(self.new, 4),
            "difference_95": [round(self.low, 4), round(self.high, 4)],
        }


def serve(
    llm: LLM,
    examples: list[Example],
    sampling: ResolvedSampling,
    *,
    k: int,
    longest: int,
    on_done: Callable[[], None],
) -> list[Served]:
    """Decode every prompt with k draft tokens a round; without a drafter every round emits one token.

    Args:
        longest: tokens of prompt and answer together. on_done: called after each prompt.
    """
    speculation = k if llm.pair.drafter is not None else 0
    found = []
    for example in examples:
        room = example.sampling(sampling, longest)
        request = EngineRequest(
            request_id=example.key,
            prompt_ids=example.prompt,
            sampling=room,
            speculation=speculation,
            choice=example.choice,
        )
        sequence = llm.engine.add(request)
        llm.engine.run()
        stats = sequence.stats
        found.append(
            Served(
                example.category,
                stats.rounds,
                stats.generated_tokens,
                tuple(stats.drafted_per_position),
                tuple(stats.accepted_per_position),
            )
        )
        on_done()
    return found


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


def survival(served: list[Served]) -> list[float]:
    """Shares of accepted draft tokens by position, over all prompts."""
    length = max((len(s.drafted) for s in served), default=0)
    made, kept = np.zeros(length), np.zeros(length)
    for s in served:
        made[: len(s.drafted)] += s.drafted
        kept[: len(s.accepted)] += s.accepted
    return [round(float(share), 4) for share in kept / np.maximum(made, 1)]


def is_better(comparisons: list[Comparison]) -> bool:
    """All prompts together better with 95 % confidence, and no category worse with 95 % confidence."""
    return comparisons[0].low > 0 and all(c.high >= 0 for c in comparisons[1:])
