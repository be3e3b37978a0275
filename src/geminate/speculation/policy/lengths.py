"""The best draft length.

With survival s_i (the chance that the first i draft tokens are all accepted) a round of k draft tokens yields
1 + s_1 + .. + s_k tokens in R(k) plain rounds. The best rate S* = max over k of that quotient also says when one more
draft token pays: s > S* x (R(k + 1) - R(k)) (Dinkelbach 1967, "On nonlinear fractional programming"). 0 is a legal
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from geminate.decoding.draft_rule import DraftStop, confidence_bin
from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import RoundCosts
from geminate.speculation.draft import Draft

HOPELESS = 0.02  # survival below which a longer draft is not looked at


def best_length(
    rates: Sequence[float], rounds: Sequence[float], *, call: float = 0.0, step: float = 0.0, others: float = 0.0
) -> tuple[int, float]:
    """The k with the most tokens per plain round, and that rate.

    Args:
        rates: conditional acceptance of draft token 1, 2, ...
        rounds: R(0), R(1), ... without draft steps; at least one more than rates.
        call, step: plain rounds that any draft costs, and each of its steps.
        others: tokens that other sequences get out of the same round: they wait for the draft as well.
    """
    survival, tokens = 1.0, 1.0 + others
    best, best_rate = 0, tokens / rounds[0]
    for k, conditional in enumerate(rates, 1):
        survival *= conditional
        tokens += survival
        rate = tokens / (rounds[k] + call + k * step)
        if rate > best_rate:
            best, best_rate = k, rate
        elif survival < HOPELESS:
            break
    return best, best_rate


def cheapest_trial(rates: Sequence[float], costs: RoundCosts, plain_rate: float) -> tuple[int, float]:
    """The draft length k >= 1 that is expected to lose fewest tokens against a plain round, and how many."""
    survival, won = 1.0, 0.0
    best, price = 1, float("inf")
    for k, conditional in enumerate(rates, 1):
        survival *= conditional
        won += survival
        lost = plain_rate * costs.added(k, k) - won
        if lost < price:
            best, price = k, lost
        elif survival < HOPELESS:
            break
    return best, price


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthPlan:
    """What drafts are worth at the moment.

    Attributes:
        costs: of rounds. plain_rate: tokens of a plain round, those of other sequences included.
        length, rate: the k of the drafter that is best on average, and its tokens per plain round.
        trial, price: where that is 0, the length to try, and the tokens it is expected to lose.
        stop: when a draft ends that turns out better or worse than average.
    """

    costs: RoundCosts
    plain_rate: float
    length: int
    rate: float
    trial: int
    price: float
    stop: DraftStop


class LengthPlanner:
    """Plans draft lengths, and uses a plan several times: for a small model, planning costs as much as a pass."""

    USES = 8  # of a plan; fewer at first, when every round teaches much
    ROWS = 2  # by which the batch may change before a plan is old

    def __init__(self) -> None:
        self._plan: LengthPlan | None = None
        self._left = 0
        self._uses = 1
        self._rows = 0

    def current(self, load: BatchLoad, make: Callable[[], LengthPlan]) -> LengthPlan:
        """The plan of this round, made anew where the last one is old."""
        self._left -= 1
        if self._plan is None or self._left < 0 or abs(load.rows - self._rows) > self.ROWS:
            self._plan, self._rows = make(), load.rows
            self._left = self._uses
            self._uses = min(2 * self._uses, self.USES)
        return self._plan


def make_plan(
    rates: Sequence[float], calibration: Sequence[float], costs: RoundCosts, *, others: float = 0.0
) -> LengthPlan:
    """A plan.

    Args:
        rates: conditional acceptance of the drafter's token 1, 2, ...; empty without a drafter.
        calibration: chance of acceptance by the drafter's confidence, `STOP_BINS` of them.
        others: tokens that other sequences get out of the same round.
    """
    length, rate = best_length(rates, costs.rounds, call=costs.call, step=costs.step, others=others)
    trial, price = (0, 0.0) if length else cheapest_trial(rates, costs, 1.0 + others)
    need = [rate * max(0.0, b - a + costs.step) for a, b in pairwise(costs.rounds)]
    stop = DraftStop(
        calibration=np.array(calibration, dtype=np.float32),
        ahead=np.array(rates, dtype=np.float32),
        need=np.array(need, dtype=np.float32),
    )
    return LengthPlan(
        costs=costs, plain_rate=1.0 + others, length=length, rate=rate, trial=trial, price=price, stop=stop
    )


def worth_verifying(draft: Draft, plan: LengthPlan) -> int:
    """How many draft tokens pay for their rows; their draft steps are paid already."""
    if not draft.confidence:
        return len(draft.token_ids)
    rounds, calibration = plan.costs.rounds, plan.stop.calibration
    best, best_gain = 0, 0.0
    survival, gain = 1.0, 0.0
    for i, confidence in enumerate(draft.confidence, 1):
        survival *= float(calibration[confidence_bin(confidence)])
        gain += survival
        worth = gain - plan.rate * (rounds[i] - 1.0)
        if worth > best_gain:
            best, best_gain = i, worth
    return best
