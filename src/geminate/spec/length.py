"""Draft length: fixed, or chosen every round from measured costs and observed acceptance.

With survival s_i (the share of drafts whose first i guesses were all accepted), pass time T(M) for M
rows and draft step time D, a round of k guesses yields 1 + s_1 + .. + s_k tokens and takes T(k+1) + k D.
`AutoLength` takes the k with the most tokens per second; 0 is a legal answer.
"""

from __future__ import annotations

from typing import Protocol

MAX_ROWS = 64


class CostModel:
    """Running estimates of T(M) and of one draft step, in seconds, shared by all sequences of an engine.

    A pass of M rows that was never timed is interpolated between its timed neighbours; past them
    (and before any two are known) each further row is taken to cost ``PRIOR_SLOPE`` x T(1).
    """

    PRIOR_SLOPE = 0.12
    PRIOR_STEP = 0.05
    DECAY = 0.2

    def __init__(self) -> None:
        self._passes: dict[int, float] = {}
        self._step: float | None = None

    def observe_pass(self, rows: int, seconds: float) -> None:
        """Note the time of a pass over ``rows`` rows."""
        if 0 < rows <= MAX_ROWS:
            self._passes[rows] = self._blend(self._passes.get(rows), seconds)

    def observe_draft(self, steps: int, seconds: float) -> None:
        """Note the time of ``steps`` draft steps."""
        if steps > 0:
            self._step = self._blend(self._step, seconds / steps)

    def _blend(self, old: float | None, new: float) -> float:
        # A preempted pass may take ten times as long; let no single one move the estimate far.
        return new if old is None else old + self.DECAY * (min(new, 3 * old) - old)

    @property
    def known(self) -> bool:
        """Whether any pass was timed."""
        return bool(self._passes)

    def pass_time(self, rows: int) -> float:
        """Estimated T(rows); 1 + slope where nothing is known (only ratios matter then)."""
        known = sorted(self._passes)
        if not known:
            return 1 + self.PRIOR_SLOPE * (rows - 1)
        if rows in self._passes:
            return self._passes[rows]
        below = [m for m in known if m < rows]
        above = [m for m in known if m > rows]
        if below and above:
            a, b = below[-1], above[0]
            share = (rows - a) / (b - a)
            return self._passes[a] * (1 - share) + self._passes[b] * share
        nearest = below[-1] if below else above[0]
        base = self._passes[nearest] / (1 + self.PRIOR_SLOPE * (nearest - 1))
        return self._passes[nearest] + self.PRIOR_SLOPE * base * (rows - nearest)

    def step_time(self) -> float:
        """Estimated time of one draft step."""
        return self._step if self._step is not None else self.PRIOR_STEP * self.pass_time(1)


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

    Conditional acceptance of position i is a running mean that starts at ``PRIOR`` and forgets with a
    half-life of some 20 rounds, so it follows the text. Where the answer is 0, one guess is tried at
    growing intervals: acceptance cannot be learned without drafting.
    """

    PRIOR = 0.7
    WEIGHT = 4.0
    KEEP = 0.966
    MAX_PAUSE = 64

    def __init__(self, costs: CostModel, max_draft: int) -> None:
        self.costs = costs
        self.max_draft = max_draft
        self._tried = [self.WEIGHT] * max_draft
        self._passed = [self.WEIGHT * self.PRIOR] * max_draft
        self._pause = 4
        self._idle = 0

    def acceptance(self, position: int) -> float:
        """Estimated chance that guess ``position`` (from 0) is accepted if those before were."""
        return self._passed[position] / self._tried[position]

    def choose(self, limit: int) -> int:
        """The best k at most ``limit``; now and then 1 where 0 is best."""
        limit = min(limit, self.max_draft)
        step = self.costs.step_time()
        best, best_rate = 0, 1.0 / self.costs.pass_time(1)
        survival, tokens = 1.0, 1.0
        for k in range(1, limit + 1):
            survival *= self.acceptance(k - 1)
            tokens += survival
            rate = tokens / (self.costs.pass_time(k + 1) + k * step)
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
