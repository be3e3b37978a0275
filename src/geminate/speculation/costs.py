"""What a round costs: pass times T(M), the draft step, and the rest, from a profile and from live timings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PROFILE_ROWS = 17  # passes of up to MAX_DRAFT + 1 rows are profiled
CLIP = 2.0  # a preempted pass may take ten times as long; no single one moves an estimate far
SLACK = 0.25  # plain passes by which a draft or a round's overhead may exceed that
WEIGHT = 0.15  # of a new timing in its own estimate
COMMON = 0.05  # of a new timing in all other estimates: the machine has modes
STALE = 32  # timings after which an estimate that had none of its own counts little
STALE_WEIGHT = 0.5
REFRESH = 32  # timings between two looks at the whole table
WIDE = 8  # row counts beyond the profile are distinguished in steps of this
# On what a draft token adds to a shared round: its estimates mix rounds of many kinds, and all wait for it.
CAUTION = 1.15
TINY = 1e-9  # seconds; a clock may not have moved


@dataclass(frozen=True, kw_only=True)
class CostProfile:
    """Measured seconds of one machine, weights and thread count.

    Attributes:
        passes: T(1) .. T(17), the seconds of a pass over M rows of one sequence.
        draft_step: seconds of one draft step; 0 without a drafter.
        draft_call: seconds of a draft beside its steps.
    """

    passes: tuple[float, ...]
    draft_step: float
    draft_call: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> CostProfile:
        """From JSON.

        Raises:
            ValueError: not a profile.
        """
        try:
            passes = tuple(float(t) for t in raw["passes"])
            step, call = float(raw["draft_step"]), float(raw["draft_call"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no cost profile: {error}") from None
        fine = all(0 < t < 3600 for t in passes) and 0 <= step < 3600 and 0 <= call < 3600
        if len(passes) != PROFILE_ROWS or not fine:
            raise ValueError("no cost profile: times out of range")
        return cls(passes=passes, draft_step=step, draft_call=call)


# Without a profile only ratios matter: a row costs a tenth of a pass, a draft step a twentieth.
UNKNOWN = CostProfile(passes=tuple(1.0 + 0.1 * m for m in range(PROFILE_ROWS)), draft_step=0.05)


class _Line:
    """Least squares of seconds = start + slope x steps over recent timings, leaning on a first slope."""

    KEEP = 0.98
    LEAN = 2.0  # weight of the first estimate, as a variance of steps: short drafts are often the first after a pause

    def __init__(self, start: float, slope: float) -> None:
        self.start, self.slope = start, slope
        self._first = slope
        self._n = self._x = self._xx = self._y = self._xy = 0.0

    def observe(self, x: float, y: float) -> None:
        """Count a timing."""
        for name, value in (("_n", 1.0), ("_x", x), ("_xx", x * x), ("_y", y), ("_xy", x * y)):
            setattr(self, name, self.KEEP * getattr(self, name) + value)
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x * mean_x
        both = self._xy / self._n - mean_x * mean_y + self.LEAN * self._first
        self.slope = max(TINY, both / (spread + self.LEAN))
        self.start = max(0.0, mean_y - self.slope * mean_x)


class CostModel:
    """Estimates of T(M), the draft step and the overhead of a round, refreshed from every timing.

    Every row count that was timed has a running geometric mean of its own, from the profile on; a timing moves
    the others a little too. One that was not timed follows its nearest timed neighbour in the profile's proportion.
    """

    def __init__(self, profile: CostProfile | None = None) -> None:
        self.profile = profile or UNKNOWN
        self._passes: dict[int, float] = {}
        self._timed: dict[int, int] = {}  # rows -> number of the last timing
        self._timings = 0
        self._drafts = _Line(self.profile.draft_call, self.profile.draft_step)
        self._overhead = 0.0
        self._table: list[float] = []
        self._tabled = -REFRESH  # number of the timing when the table was made

    @property
    def knows_plain(self) -> bool:
        """Whether a pass over one row was ever timed: which everything is compared to."""
        return 1 in self._passes

    def _profiled(self, rows: int) -> float:
        passes = self.profile.passes
        if rows <= PROFILE_ROWS:
            return passes[rows - 1]
        slope = max(0.0, (passes[-1] - passes[8]) / (PROFILE_ROWS - 9))
        return passes[-1] + slope * (rows - PROFILE_ROWS)

    def pass_time(self, rows: int) -> float:
        """Seconds of a pass over ``rows`` >= 1 rows."""
        if rows in self._passes:
            return self._passes[rows]
        if not self._passes:
            return self._profiled(rows)
        near = min(self._passes, key=lambda m: abs(m - rows))
        return self._passes[near] * self._profiled(rows) / self._profiled(near)

    @property
    def draft_step(self) -> float:
        """Seconds of one more draft step."""
        return self._drafts.slope

    @property
    def draft_call(self) -> float:
        """Seconds of a draft beside its steps."""
        return self._drafts.start

    def round_time(self, k: int, *, steps: int | None = None, batch_rows: int = 0) -> float:
        """Seconds of a round with k draft tokens.

        Args:
            steps: draft steps made for them; None is k, 0 for drafts that cost nothing.
            batch_rows: rows of other sequences in the same pass.
        """
        made = k if steps is None else steps
        drafting = self.draft_call + made * self.draft_step if made else 0.0
        return self._overhead + self.pass_time(batch_rows + 1 + k) + drafting

    def round_times(self, batch_rows: int = 0, *, prompt_rows: int = 0, sequences: int = 0) -> list[float]:
        """`round_time` of 0 .. 16 draft tokens without draft steps; up to REFRESH timings old, as every round asks.

        Args:
            batch_rows: rows of other sequences in the same pass, prompts aside.
            prompt_rows: rows of prompts in it. They pass once; a draft token is charged what it adds to them,
                against the rate of rounds without them.
            sequences: how many other sequences, each with the overhead of a round.
        """
        need = batch_rows + prompt_rows + PROFILE_ROWS
        if self._timings - self._tabled >= REFRESH or len(self._table) < need:
            self._table = self._tabulate(need)
            self._tabled = self._timings
        at = batch_rows + prompt_rows
        times = self._table[at : at + PROFILE_ROWS]
        if not at:
            return times
        plain = self._table[batch_rows] + sequences * self._overhead
        return [plain + CAUTION * (t - times[0]) for t in times]

    def _tabulate(self, most: int) -> list[float]:
        """`round_time` by rows, 1 .. ``most`` of them, never falling: a falling estimate is out of date."""
        rows = np.arange(1, most + 1)
        times = np.array([self._profiled(m) for m in range(1, most + 1)])
        if self._passes:
            timed = np.array(sorted(self._passes))
            near = timed[np.abs(rows[:, None] - timed).argmin(axis=1)]
            factors = {m: t / self._profiled(m) for m, t in self._passes.items()}
            times *= np.array([factors[int(m)] for m in near])
        grown: list[float] = (np.minimum.accumulate(times[::-1])[::-1] + self._overhead).tolist()
        return grown

    def observe_pass(self, rows: int, seconds: float) -> None:
        """Count the time of a pass over ``rows`` rows, of one sequence or several."""
        if rows > PROFILE_ROWS:
            rows = round(rows / WIDE) * WIDE
        seconds = max(seconds, TINY)
        self._timings += 1
        fresh = self._timings - self._timed.get(rows, -STALE) < STALE
        self._timed[rows] = self._timings
        if rows not in self._passes:
            # Half the profile's proportion: a row count's first pass is often a slow one.
            seeded = bool(self._passes) and self.profile is not UNKNOWN
            self._passes[rows] = (self.pass_time(rows) * seconds) ** 0.5 if seeded else seconds
            return
        off = min(max(seconds / self._passes[rows], 1 / CLIP), CLIP)
        for m in self._passes:
            self._passes[m] *= off ** (COMMON if m != rows else WEIGHT if fresh else STALE_WEIGHT)

    def observe_draft(self, steps: int, seconds: float) -> None:
        """Count the time of a draft of ``steps`` steps."""
        known = self.draft_call + steps * self.draft_step
        self._drafts.observe(steps, min(seconds, CLIP * known + SLACK * self.pass_time(1)))

    def observe_overhead(self, seconds: float, tokens: int) -> None:
        """Count a round's time outside drafting and the pass, in which ``tokens`` were emitted.

        The cost of every token, drafted or not, carries no information about draft lengths; only a round's own
        share, taken to be as large as a token's, is kept.
        """
        share = seconds / (tokens + 1)
        self._overhead += WEIGHT * (min(share, CLIP * self._overhead + SLACK * self.pass_time(1)) - self._overhead)
