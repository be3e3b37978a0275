"""The best draft length.

With survival s_i (the chance that the first i draft tokens are all accepted) a round of k draft tokens yields
1 + s_1 + .. + s_k tokens in R(k) seconds. The best rate S* = max over k of that quotient also says when one more draft
token pays: s > S* x (R(k + 1) - R(k)) (Dinkelbach 1967, "On nonlinear fractional programming"). 0 is a legal answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from geminate.decoding.draft_rule import DraftStop, confidence_bin
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Draft

HOPELESS = 0.02  # survival below which a longer draft is not looked at


def best_length(
    rates: Sequence[float], seconds: Sequence[float], *, call: float = 0.0, step: float = 0.0, others: float = 0.0
) -> tuple[int, float]:
    """The k with the most tokens per second, and that rate.

    Args:
        rates: conditional acceptance of draft token 1, 2, ...
        seconds: R(0), R(1), ... without draft steps; at least one more than rates.
        call, step: seconds of any draft, and of each of its steps.
        others: tokens that other sequences get out of the same round: they wait for the draft as well.
    """
    survival, tokens = 1.0, 1.0 + others
    best, best_rate = 0, tokens / seconds[0]
    for k, conditional in enumerate(rates, 1):
        survival *= conditional
        tokens += survival
        rate = tokens / (seconds[k] + call + k * step)
        if rate > best_rate:
            best, best_rate = k, rate
        elif survival < HOPELESS:
            break
    return best, best_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthPlan:
    """What the drafter is worth at the moment.

    Attributes:
        length, rate: the k that is best on average, and its tokens per second.
        stop: when a draft ends that turns out better or worse than average.
    """

    length: int
    rate: float
    stop: DraftStop


class LengthPlanner:
    """Plans draft lengths, and uses a plan several times: for a small model, planning costs as much as a pass."""

    USES = 8  # of a plan
    ROWS = 2  # by which the batch may change before a plan is old

    def __init__(self, costs: CostModel, stats: AcceptanceStats) -> None:
        self._costs, self._stats = costs, stats
        self.current: LengthPlan | None = None
        self._age = self.USES
        self._rows = 0

    def is_old(self, load: BatchLoad) -> bool:
        """Whether `plan` is due; counts a use."""
        self._age += 1
        return self.current is None or self._age > self.USES or abs(load.rows - self._rows) > self.ROWS

    def plan(self, rates: Sequence[float], seconds: Sequence[float], load: BatchLoad) -> None:
        """Make a plan from conditional acceptances and the seconds of a round by draft length."""
        self._age, self._rows = 0, load.rows
        step = self._costs.draft_step
        length, rate = best_length(rates, seconds, call=self._costs.draft_call, step=step, others=load.tokens)
        stop = DraftStop(
            calibration=np.array(self._stats.calibration.values(), dtype=np.float32),
            ahead=np.array(rates, dtype=np.float32),
            need=np.array([rate * max(0.0, b - a + step) for a, b in pairwise(seconds)], dtype=np.float32),
        )
        self.current = LengthPlan(length=length, rate=rate, stop=stop)


def worth_verifying(draft: Draft, plan: LengthPlan, seconds: Sequence[float]) -> int:
    """How many draft tokens pay for their rows; their draft steps are paid already."""
    if not draft.confidence:
        return len(draft.token_ids)
    best, best_gain = 0, 0.0
    survival, gain = 1.0, 0.0
    for i, confidence in enumerate(draft.confidence, 1):
        survival *= float(plan.stop.calibration[confidence_bin(confidence)])
        gain += survival
        worth = gain - plan.rate * (seconds[i] - seconds[0])
        if worth > best_gain:
            best, best_gain = i, worth
    return best
