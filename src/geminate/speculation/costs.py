"""What a round with a draft costs, in plain rounds: ratios of an idle machine's profile, corrected by live comparisons.

A busy machine makes all rounds slower, and single readings of the clock worthless; how much more a round with a draft
takes than a plain one changes little. So ratios are what is kept:

    R(k) = 1 + excess x added,    added = idle seconds of a round with k draft tokens / those of a plain one - 1

where the idle seconds come from the profile, carried to the context's length by the attention's bytes and
multiply-accumulates, and ``excess`` is the median of what rounds of both kinds have shown side by side. Comparisons
weigh what the draft should have added, and the more the nearer that is to what is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from geminate.params import MAX_DRAFT
from geminate.plan.costs import AttentionCosts, AttentionWork
from geminate.speculation.batch_load import NO_LOAD, BatchLoad

PROFILE_ROWS = MAX_DRAFT + 1  # passes of up to so many rows are profiled
PROFILE_CONTEXT = 64  # positions behind which they are

NEAR = 12  # rounds that are compared with each other: the same moment, whatever the machine is doing
ENOUGH = 3  # rounds of the other kind without which there is no comparison
SHOWN = 9  # comparisons that count
PROFILE_COUNTS = 2  # comparisons that the profile weighs as much as
CHANGE = 2.0  # times as fast or as slow: another machine, of which the comparisons say nothing
SETTLED = 3  # comparisons that outvote the profile
LEAST_EXCESS = 0.1
DRAFT = 4  # tokens of a usual draft
LEAST_ROW, LEAST_DRAFT = 0.01, 0.002  # plain rounds that a row and a draft add at least, whatever the profile says
FAR = 64  # positions apart at which rounds are not compared
WEIGHT = 0.15  # of a new timing of a pass in the speed that prompts are paced by
LEAST_SHARE = 0.25  # passes of one row by which a round may take longer outside the pass than it did
CLIP = 2.0  # a preempted pass may take ten times as long; no single one moves that far
TINY = 1e-9  # seconds; a clock may not have moved
# On what a draft token adds to a shared round: it is estimated from rounds of one sequence, and all wait for it.
CAUTION = 1.15


@dataclass(frozen=True, kw_only=True)
class CostProfile:
    """Measured seconds of one machine, weights and thread count while nothing else ran.

    Attributes:
        passes: T(1) .. T(17), the seconds of a pass over M rows of one sequence behind `PROFILE_CONTEXT` positions.
        draft_step: seconds of one draft step; 0 without a drafter.
        draft_call: seconds of a draft beside its steps.
        attention_byte: seconds that a byte of keys and values adds to a pass. attention_mac: seconds that a
            multiply-accumulate of attention adds to it.
        quiet: whether nothing else seems to have run while it was measured.
    """

    passes: tuple[float, ...]
    draft_step: float
    draft_call: float = 0.0
    attention_byte: float = 0.0
    attention_mac: float = 0.0
    quiet: bool = True

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
            byte, mac = float(raw["attention_byte"]), float(raw["attention_mac"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no cost profile: {error}") from None
        if len(passes) != PROFILE_ROWS or not all(0 < t < 3600 for t in passes):
            raise ValueError("no cost profile: pass times out of range")
        if not all(0 <= t < 3600 for t in (step, call, byte, mac)):
            raise ValueError("no cost profile: times out of range")
        return cls(passes=passes, draft_step=step, draft_call=call, attention_byte=byte, attention_mac=mac)


# Without a profile: a row costs a tenth of a pass, a draft step a twentieth.
UNKNOWN = CostProfile(passes=tuple(1.0 + 0.1 * m for m in range(PROFILE_ROWS)), draft_step=0.05)
NO_ATTENTION = AttentionWork(bytes=0, macs=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCosts:
    """Rounds by draft length, in plain rounds (of the batch, where a pass is shared).

    Attributes:
        rounds: R(0) = 1, R(1), .. R(16), draft steps aside; never falling.
        call, step: what a draft adds, and each of its steps.
    """

    rounds: list[float]
    call: float
    step: float

    def added(self, drafted: int, steps: int) -> float:
        """Plain rounds that a draft of so many tokens and draft steps adds."""
        more = self.rounds[drafted] - 1.0
        return more + self.call + steps * self.step if steps else more


class CostModel:
    """Costs of rounds, in plain rounds.

    Args:
        profile: of the idle machine; without one only its proportions are guessed.
        target, drafter: their attention by position; None: costs do not grow with the context.

    """

    def __init__(
        self,
        profile: CostProfile | None = None,
        *,
        target: AttentionCosts | None = None,
        drafter: AttentionCosts | None = None,
    ) -> None:
        self.profile = profile or UNKNOWN
        self._target, self._drafter = target, drafter
        self._slow = 0.0 if profile is None else 1.0  # times as slow as the profile says
        self._outside = (
            0.0  # of a round's time outside the pass, a sequence's and a token's share; as the profile's seconds
        )
        self._near: deque[tuple[float, float]] = deque(maxlen=NEAR)  # (what the draft should add, seconds)
        self._drafted = 0  # how many of them had a draft
        self._position = 0
        self._since_check = 0
        self._level = 0.0  # seconds of a plain round, by all rounds near the last comparison
        self._shown: deque[tuple[float, float]] = deque(maxlen=SHOWN)  # (excess, what the draft should have added)
        self._kept: tuple[RoundCosts, RoundCosts] | None = None  # idle costs, and the same corrected
        self._idle: tuple[int, BatchLoad, RoundCosts] | None = None

    def round_costs(self, position: int, load: BatchLoad = NO_LOAD) -> RoundCosts:
        """Costs of a round whose last token stands at ``position``, with what shares its pass at the same."""
        return self._corrected(self._idle_costs(position, load))

    def excess(self, added: float) -> float:
        """How many times what the profile says a draft adds to a round here, lately; ``added`` is what it says."""
        if not self._shown:
            return 1.0
        near = [(shown, a * min(a / added, added / a) ** 2) for shown, a in self._shown]
        near.append((1.0, PROFILE_COUNTS * sum(weight for _, weight in near) / len(near)))
        return max(LEAST_EXCESS, _weighted_median(near))

    def _corrected(self, idle: RoundCosts) -> RoundCosts:
        if not self._shown:
            return idle
        if self._kept is None or self._kept[0] is not idle:
            self._kept = idle, self._correct(idle)
        return self._kept[1]

    def _correct(self, idle: RoundCosts) -> RoundCosts:
        drafting = self.excess(idle.added(DRAFT, DRAFT))
        call, step = drafting * idle.call, drafting * idle.step
        rounds = [1.0]
        for k in range(1, PROFILE_ROWS):
            added = idle.added(k, k)
            rounds.append(max(rounds[-1], 1.0 + self.excess(added) * added - call - k * step))
        return RoundCosts(rounds=rounds, call=call, step=step)

    def _idle_costs(self, position: int, load: BatchLoad) -> RoundCosts:
        place = position // FAR
        if self._idle is None or self._idle[0] != place or self._idle[1] != load:
            self._idle = place, load, self._profile_costs(place * FAR, load)
        return self._idle[2]

    def _profile_costs(self, position: int, load: BatchLoad) -> RoundCosts:
        work = self._work(self._target, position)
        row = self.profile.attention_mac * work.macs
        once = self.profile.attention_byte * work.bytes
        sequences = 1 + load.sequences
        plain_rows = 1 + load.rows
        plain = self._profiled(plain_rows) + sequences * once + plain_rows * row
        if load.shared:  # what rounds of one sequence have outside their passes is in the comparisons
            plain += sequences * self._outside
        first = plain_rows + load.prompt_rows
        caution = CAUTION if load.shared else 1.0
        least = LEAST_ROW if not load.shared else 0.0
        base, rounds = self._profiled(first), [1.0]
        for k in range(1, PROFILE_ROWS):
            added = caution * (self._profiled(first + k) - base + k * row) / plain
            rounds.append(max(rounds[-1] + least, 1.0 + added))
        drafting = self._work(self._drafter, position)
        grown = self.profile.attention_byte * drafting.bytes + self.profile.attention_mac * drafting.macs
        step = (self.profile.draft_step + grown) / plain
        return RoundCosts(rounds=rounds, call=max(LEAST_DRAFT, self.profile.draft_call / plain), step=step)

    @staticmethod
    def _work(costs: AttentionCosts | None, position: int) -> AttentionWork:
        """Attention beyond what the profile's passes held."""
        if costs is None or position <= PROFILE_CONTEXT:
            return NO_ATTENTION
        here, there = costs.at(position), costs.at(PROFILE_CONTEXT)
        return AttentionWork(bytes=here.bytes - there.bytes, macs=here.macs - there.macs)

    def _profiled(self, rows: int) -> float:
        passes = self.profile.passes
        if rows <= PROFILE_ROWS:
            return passes[rows - 1]
        slope = max(0.0, (passes[-1] - passes[8]) / (PROFILE_ROWS - 9))
        return passes[-1] + slope * (rows - PROFILE_ROWS)

    def pass_time(self, rows: int) -> float:
        """Seconds of a pass over ``rows`` >= 1 rows lately; 0 as long as nothing is known."""
        return self._slow * self._profiled(rows)

    def observe_pass(self, rows: int, seconds: float, outside: float = 0.0) -> None:
        """Count the time of a pass over ``rows`` rows, of one sequence or several, without prompts.

        Args:
            outside: seconds of the round after the pass, for each sequence and each emitted token.
        """
        slow = max(seconds, TINY) / self._profiled(rows)
        self._slow = self._slow * min(max(slow / self._slow, 1 / CLIP), CLIP) ** WEIGHT if self._slow else slow
        share = min(outside / self._slow, CLIP * self._outside + LEAST_SHARE * self._profiled(1))
        self._outside += WEIGHT * (share - self._outside)

    @property
    def settled(self) -> bool:
        """Whether enough rounds were compared for ``excess`` to mean something."""
        return len(self._shown) >= SETTLED

    def observe_round(self, drafted: int, steps: int, position: int, seconds: float) -> None:
        """Count the time of a round that one sequence had for itself.

        Args:
            drafted: draft tokens that were verified. steps: draft steps.
            position: of the last token before it.
            seconds: of the round, less what every token costs, drafted or not.
        """
        if abs(position - self._position) > FAR:
            self._near.clear()
            self._drafted = 0
        self._position = position
        added = 0.0
        if drafted or steps:
            added = self._idle_costs(position, NO_LOAD).added(drafted, steps)
        seconds = max(seconds, TINY)
        changed = bool(self._near) and (self._near[-1][0] > 0) != (added > 0)
        if changed and (len(self._near) - self._drafted if added else self._drafted) >= ENOUGH:
            self._compare(added, seconds)
        if len(self._near) == NEAR and self._near[0][0]:
            self._drafted -= 1
        self._near.append((added, seconds))
        self._drafted += added > 0
        self._since_check += 1
        if self._since_check >= NEAR:
            self._since_check = 0
            self._check_level()

    def _check_level(self) -> None:
        """Forget all comparisons if the machine has become another: a load has come or gone."""
        level = self._level_now()
        if not self._level / CHANGE < level < self._level * CHANGE:
            self._shown.clear()
            self._kept = None
            self._level = self._level_now()

    def _level_now(self) -> float:
        times = {added: 1.0 + self.excess(added) * added if added else 1.0 for added, _ in self._near}
        return _median([seconds / times[added] for added, seconds in self._near])

    def _compare(self, added: float, seconds: float) -> None:
        """What a draft added, from a round and the rounds of the other kind just before it."""
        self._check_level()
        if added:
            plain = _median([s for a, s in self._near if not a])
            shown = (seconds / plain - 1.0) / added
        else:
            shown = _median([(s / seconds - 1.0) / a for a, s in self._near if a])
            added = _median([a for a, _ in self._near if a])
        self._shown.append((shown, added))
        self._kept = None
        self._level = self._level_now()


def _median(values: list[float]) -> float:
    values.sort()
    return values[len(values) // 2]


def _weighted_median(values: list[tuple[float, float]]) -> float:
    """The value below and above which lies half of the weight."""
    values.sort()
    half = sum(weight for _, weight in values) / 2
    for value, weight in values:
        half -= weight
        if half <= 0:
            return value
    return values[-1][0]
