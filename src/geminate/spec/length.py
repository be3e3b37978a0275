"""Draft length: fixed, or chosen every round from measured costs and observed acceptance.

With survival s_i (the share of drafts whose first i guesses were all accepted), a round of k guesses yields
1 + s_1 + .. + s_k tokens and takes a measured R(k) seconds. `AutoLength` takes the k with the most tokens per
second; 0 is a legal answer.
"""

from __future__ import annotations

from typing import Protocol


class CostModel:
    """Running estimates of R(k), the seconds of a whole round with k guesses: drafting, pass, sampling and all.

    A length that was never timed is interpolated between its timed neighbours; past them each further guess is
    taken to cost ``PRIOR_SLOPE`` x R(0), little enough that it is tried.
    """

    PRIOR_SLOPE = 0.12
    DECAY = 0.1
    REFRESH = 100

    def __init__(self) -> None:
        self._rounds: dict[int, float] = {}
        self._since_plain = 0

    def observe(self, k: int, seconds: float) -> None:
        """Note the time of a round with k guesses."""
        self._since_plain = 0 if k == 0 else self._since_plain + 1
        old = self._rounds.get(k)
        # A preempted round may take ten times as long; let no single one move the estimate far.
        self._rounds[k] = seconds if old is None else old + self.DECAY * (min(seconds, 2 * old) - old)

    @property
    def plain_is_stale(self) -> bool:
        """Whether a plain round was never timed, or long ago: what everything is compared to must be known."""
        return 0 not in self._rounds or self._since_plain >= self.REFRESH

    def round_time(self, k: int) -> float:
        """Estimated R(k); in units of R(0) where nothing is known (only ratios matter then)."""
        known = self._rounds
        if k in known:
            return known[k]
        below = max((m for m in known if m < k), default=None)
        above = min((m for m in known if m > k), default=None)
        if below is not None and above is not None:
            share = (k - below) / (above - below)
            return known[below] * (1 - share) + known[above] * share
        nearest = below if below is not None else above
        if nearest is None:
            return 1 + self.PRIOR_SLOPE * k
        plain = known[nearest] / (1 + self.PRIOR_SLOPE * nearest)
        return known[nearest] + self.PRIOR_SLOPE * plain * (k - nearest)


class LengthPolicy(Protocol):
    """Chooses k for the next round of one sequence."""

    def choose(self, limit: int) -> int:
        """Guesses to draft next, at most ``limit``."""
        ...

    def observe(self, drafted: int, accepted: int) -> None:
        """What became of the last round's guesses."""
        ...


class FixedLength:
    """Always k (or what still fits)."""

    def __init__(self, k: int) -> None:
        self.k = k

    def choose(self, limit: int) -> int:
        """k, cut to ``limit``."""
        return min(self.k, limit)

    def observe(self, drafted: int, accepted: int) -> None:
        """Nothing to learn."""


class AutoLength:
    """The k with the best expected tokens per second, from running acceptance per position.

    Conditional acceptance of a position is a running mean that forgets with a half-life of some 20 rounds, so it
    follows the text; where there is little evidence it leans on the position before (``PRIOR`` for the first).
    Where the answer is 0, one guess is tried at growing intervals: acceptance cannot be learned without drafting.
    """

    PRIOR = 0.7
    WEIGHT = 4.0
    KEEP = 0.966
    MAX_PAUSE = 64

    def __init__(self, costs: CostModel, max_draft: int) -> None:
        self.costs = costs
        self.max_draft = max_draft
        self._tried = [0.0] * max_draft
        self._passed = [0.0] * max_draft
        self._pause = 4
        self._idle = 0

    def acceptance(self, position: int) -> float:
        """Estimated chance that guess ``position`` (from 0) is accepted if those before were."""
        rate = self.PRIOR
        for i in range(position + 1):
            rate = self._leaning(i, rate)
        return rate

    def _leaning(self, position: int, before: float) -> float:
        return (self._passed[position] + self.WEIGHT * before) / (self._tried[position] + self.WEIGHT)

    def choose(self, limit: int) -> int:
        """The best k at most ``limit``; now and then 1 where 0 is best."""
        limit = min(limit, self.max_draft)
        if self.costs.plain_is_stale:
            return 0
        best, best_rate = 0, 1.0 / self.costs.round_time(0)
        survival, tokens, conditional = 1.0, 1.0, self.PRIOR
        for k in range(1, limit + 1):
            conditional = self._leaning(k - 1, conditional)
            survival *= conditional
            tokens += survival
            rate = tokens / self.costs.round_time(k)
            if rate > best_rate:
                best, best_rate = k, rate
        if best > 0 or limit == 0:
            self._idle, self._pause = 0, 4
            return best
        self._idle += 1
        if self._idle < self._pause:
            return 0
        self._idle, self._pause = 0, min(2 * self._pause, self.MAX_PAUSE)
        return 1

    def observe(self, drafted: int, accepted: int) -> None:
        """Update the positions that were put to the test: the accepted ones and the first rejected."""
        for i in range(min(drafted, accepted + 1, self.max_draft)):
            self._tried[i] = self.KEEP * self._tried[i] + 1
            self._passed[i] = self.KEEP * self._passed[i] + (1 if i < accepted else 0)
