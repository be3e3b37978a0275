"""What a sequence drafts next: a fixed number of guesses, copied text, or whichever promises most per second.

With survival s_i (the chance that the first i guesses are all accepted) a round of k guesses yields
1 + s_1 + .. + s_k tokens in R(k) seconds. The best rate S* = max over k of that quotient also says when one more
guess pays: s > S* x (R(k + 1) - R(k)) (Dinkelbach's rule for quotients). 0 is a legal answer.

Policies decide by timings and luck. They can, because what is emitted never depends on what was drafted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from geminate.decoding.draft_rule import DraftStop, confidence_bin
from geminate.params import MAX_DRAFT
from geminate.speculation.acceptance import Beliefs, MatchRates, PositionRates
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Draft, DraftContext, Drafter
from geminate.speculation.sources.grammar import allowed_prefix, forced_draft
from geminate.speculation.sources.ngram import Match, NgramIndex, continuation

FORCED = 0.99  # chance that a token the grammar forces is the one emitted: it may be split otherwise
HOPELESS = 0.02  # survival below which a longer draft is not looked at
REPLAN_ROWS = 2  # rows by which the company may change before a plan is old
REPLAN = 8  # uses of a plan before the next: for a small model, thinking costs as much as a pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Company:
    """What shares the pass with a sequence.

    Attributes:
        sequences: other sequences that decode. rows: their expected rows. tokens: what they are expected to emit.
        prompt_rows: rows of prompts.
    """

    sequences: int = 0
    rows: int = 0
    tokens: float = 0.0
    prompt_rows: int = 0


ALONE = Company()


class Habit:
    """What a sequence's rounds have been like lately.

    Attributes:
        usual: guesses of a round. won: how many of them were right.
    """

    WEIGHT = 0.1

    def __init__(self) -> None:
        self.usual = self.won = 0.0

    def note(self, drafted: int, accepted: int) -> None:
        """Count a round."""
        self.usual += self.WEIGHT * (drafted - self.usual)
        self.won += self.WEIGHT * (accepted - self.won)


class Policy(Protocol):
    """Drafts for one sequence."""

    usual: float
    won: float

    def draft(self, context: DraftContext, limit: int, company: Company) -> Draft:
        """At most ``limit`` guesses."""
        ...

    def observe(self, draft: Draft, accepted: int, seconds: float | None) -> None:
        """What became of the last draft, and the seconds of the round (None where they say nothing)."""
        ...


class FixedPolicy(Habit):
    """Always k guesses of the drafter, or what still fits."""

    def __init__(self, drafter: Drafter | None, k: int) -> None:
        super().__init__()
        self.drafter, self.k = drafter, k

    def draft(self, context: DraftContext, limit: int, company: Company) -> Draft:
        """See `Policy`."""
        k = min(self.k, limit)
        return Draft() if k == 0 or self.drafter is None else self.drafter.draft(context, k)

    def observe(self, draft: Draft, accepted: int, seconds: float | None) -> None:
        """See `Policy`."""
        self.note(len(draft.token_ids), accepted)


class NgramPolicy(Habit):
    """Copies as much as fits wherever the text repeats itself, whatever it costs."""

    def __init__(self) -> None:
        super().__init__()
        self._index = NgramIndex()

    def draft(self, context: DraftContext, limit: int, company: Company) -> Draft:
        """See `Policy`."""
        match = self._index.find(context.token_ids)
        if match is None or limit == 0:
            return forced_draft(context, limit)
        copied = allowed_prefix(context.constraint, continuation(context.token_ids, match, limit))
        return Draft(token_ids=copied, source="ngram") if copied else forced_draft(context, limit)

    def observe(self, draft: Draft, accepted: int, seconds: float | None) -> None:
        """See `Policy`."""
        self.note(len(draft.token_ids), accepted)


def best_length(
    rates: Seq[float], seconds: Seq[float], *, call: float = 0.0, step: float = 0.0, others: float = 0.0
) -> tuple[int, float]:
    """The k with the most tokens a second, and that rate.

    Args:
        rates: conditional acceptance of guess 1, 2, ...
        seconds: R(0), R(1), ... without draft steps; at least one more than rates.
        call, step: seconds of any draft, and of each of its steps.
        others: tokens that other sequences get out of the same round: they wait for the guesses as well.
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


@dataclass
class _Plan:
    """What the drafter is worth at the moment.

    Attributes:
        length, rate: the k that is best on average, and its tokens a second.
        stop: when a draft ends that turns out better or worse than average.
    """

    length: int
    rate: float
    stop: DraftStop


class AutoPolicy(Habit):
    """Drafter, copy or nothing: the most expected tokens per second of measured cost.

    Where drafting does not pay, or has lost time lately whatever the estimates say, it is tried at growing
    intervals: acceptance cannot be learned without. Drafts start short and may double in length whenever a full
    one was accepted: a new text may be nothing like the last. Time lost against plain decoding is kept in an
    account; beyond DEBT plain rounds it is paid off with plain rounds first, so a text that misleads every
    estimate costs a bounded amount.

    In company nobody can tell whose a round's time is. What guesses add to it is estimated, the time to decide about
    them is measured, and a sequence whose guesses have not been worth both lately stops thinking for growing times.
    """

    DEBT = 8.0
    CREDIT = 32.0
    REPAY = 0.02
    OPTIMISM = 0.15  # plain rounds that drafting may lose at first
    GAIN_KEEP = 0.9
    MAX_PAUSE = 64
    PATIENCE = 0.5  # tokens that thinking may lose lately before it rests
    PLAIN_EVERY = 256  # rounds after which the cost of a plain one is looked at again

    def __init__(self, drafter: Drafter | None, costs: CostModel, beliefs: Beliefs, *, ngram: bool = True) -> None:
        super().__init__()
        self.drafter, self.costs, self.beliefs = drafter, costs, beliefs
        self.debt = 0.0
        self._index = NgramIndex() if ngram else None
        self._own = PositionRates(keep=0.966)
        self._copies = MatchRates(keep=0.966, weight=2.0)
        self._match: Match | None = None
        self._gain = min(self.OPTIMISM, beliefs.gain)
        self._pause, self._idle, self._since_plain = 8, 0.0, 0
        self._reach, self._copy_reach = 1, 4
        self._plan: _Plan | None = None
        self._copy_rates: list[float] = []
        self._plan_age = self._copy_age = REPLAN
        self._planned_rows = 0
        self._shared: tuple[list[float], float] | None = None  # the last round's table and rate, when it was shared
        self._thought, self._worth = 0.0, 0.0
        self._rest, self._next_rest = beliefs.rest, max(8, beliefs.rest)

    def draft(self, context: DraftContext, limit: int, company: Company) -> Draft:
        """See `Policy`."""
        self._shared = None
        if company is ALONE:
            return self._choose(context, limit, company)
        if self._rest:
            self._rest -= 1
            return Draft()
        began = time.perf_counter()
        draft = self._choose(context, limit, company)
        self._thought = time.perf_counter() - began
        return draft

    def _choose(self, context: DraftContext, limit: int, company: Company) -> Draft:
        self._match = self._index.find(context.token_ids) if self._index is not None else None
        alone = company is ALONE
        plain_is_due = (alone and not self.costs.knows_plain) or self._since_plain >= self.PLAIN_EVERY
        if limit == 0 or self.debt > self.DEBT or plain_is_due:
            return Draft()
        limit = min(limit, MAX_DRAFT)
        seconds = self.costs.round_times(
            company.rows, prompt_rows=company.prompt_rows, sequences=company.sequences
        )  # fmt: skip
        if not alone:
            self._shared = seconds, (1.0 + company.tokens) / seconds[0]
        copied = self._copy(context, limit, seconds, company.tokens) if self._match is not None else Draft()
        forced = forced_draft(context, limit)
        if forced.token_ids and len(forced.token_ids) >= len(copied.token_ids):
            rates = [FORCED] * len(forced.token_ids)
            return forced.first(best_length(rates, seconds, others=company.tokens)[0])
        if copied.token_ids or self.drafter is None:
            return copied
        if not alone and self._plan is None:
            self._planned(seconds, company)  # a first guess on trial is paid by all
        if self._pausing(company):
            return copied
        plan = self._planned(seconds, company)
        if plan.length == 0:
            return self.drafter.draft(context, 1)
        draft = self.drafter.draft(replace(context, stop=plan.stop), min(limit, self._reach))
        return draft.first(self._worth_verifying(draft, plan, seconds))

    def _pausing(self, company: Company) -> bool:
        if self._gain >= 0.0 and (self._plan is None or self._plan.length):
            self._pause, self._idle = 8, 0.0
            return False
        self._idle += 1 / (1 + company.sequences)  # what is learned, all learn: together they try as often as one would
        if self._idle < self._pause:
            return True
        self._pause, self._idle = min(2 * self._pause, self.MAX_PAUSE), 0.0
        return False

    def _copy(self, context: DraftContext, limit: int, seconds: list[float], others: float) -> Draft:
        """Copied text, if it promises more than the drafter and plain decoding."""
        assert self._match is not None
        self._copy_age += 1
        if self._copy_age > REPLAN:
            self._copy_age = 0
            self._copy_rates = self._copies.values(lean=self.beliefs.matches.values())
        rates = [self._copy_rates[MatchRates.kind(self._match.length + i)] for i in range(min(limit, self._copy_reach))]
        k, rate = best_length(rates, seconds, others=others)
        if k == 0 or (self._plan is not None and rate < self._plan.rate):
            return Draft()
        copied = allowed_prefix(context.constraint, continuation(context.token_ids, self._match, k))
        return Draft(token_ids=copied, source="ngram")

    def _planned(self, seconds: list[float], company: Company) -> _Plan:
        self._plan_age += 1
        moved = abs(company.rows - self._planned_rows) > REPLAN_ROWS
        if self._plan is None or self._plan_age > REPLAN or moved:
            self._plan_age, self._planned_rows = 0, company.rows
            step = self.costs.draft_step
            rates = self._own.values(lean=self.beliefs.positions.values())
            length, rate = best_length(
                rates, seconds, call=self.costs.draft_call, step=step, others=company.tokens
            )  # fmt: skip
            stop = DraftStop(
                calibration=np.array(self.beliefs.calibration.values(), dtype=np.float32),
                ahead=np.array(rates, dtype=np.float32),
                need=np.array([rate * max(0.0, b - a + step) for a, b in pairwise(seconds)], dtype=np.float32),
            )
            self._plan = _Plan(length, rate, stop)
        return self._plan

    def _worth_verifying(self, draft: Draft, plan: _Plan, seconds: list[float]) -> int:
        """How many of the guesses pay for their rows; the draft steps are paid already."""
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

    def observe(self, draft: Draft, accepted: int, seconds: float | None) -> None:
        """See `Policy`."""
        count = len(draft.token_ids)
        self.note(count, accepted)
        if self._shared is not None:
            self._weigh(count, accepted, bool(draft.steps))
        self._since_plain = self._since_plain + 1 if count else 0
        if count == 0 and draft.steps == 0:
            self.debt = max(self.debt - self.REPAY, -self.CREDIT)
            return
        if draft.source == "ngram" and self._match is not None:
            if accepted == count == self._copy_reach:
                self._copy_reach *= 2
            self.beliefs.matches.observe_round(self._match.length, count, accepted)
            self._copies.observe_round(self._match.length, count, accepted)
        elif draft.source == "mtp":
            if accepted == count == self._reach:
                self._reach *= 2
            self._own.observe_round(count, accepted)
            self.beliefs.positions.observe_round(count, accepted)
            self.beliefs.calibration.observe_round(draft.confidence, count, accepted)
        if seconds is not None:
            plain = self.costs.round_time(0)
            self.debt = max(self.debt - (accepted + 1 - seconds / plain), -self.CREDIT)
            if draft.steps:
                # A draft after a pause is slower than one of a series, which is what there is to decide about.
                usual = self.costs.round_time(count, steps=draft.steps)
                self._count_gain(accepted + 1 - min(seconds, usual) / plain)

    def _weigh(self, count: int, accepted: int, drafted: bool) -> None:
        """What a shared round's guesses were worth, in tokens of the batch."""
        assert self._shared is not None
        times, rate = self._shared
        value = accepted - rate * (times[count] - times[0] + self._thought)
        if drafted:
            self._count_gain(value)
        self._worth = self.GAIN_KEEP * self._worth + value
        if self._worth < -self.PATIENCE:
            self._rest = self.beliefs.rest = self._next_rest
            self._worth = 0.0
            self._next_rest = min(2 * self._next_rest, self.MAX_PAUSE)
        elif self._worth > self.PATIENCE:
            self._next_rest = 8
            self.beliefs.rest = 0

    def _count_gain(self, tokens: float) -> None:
        won = min(max(tokens, -1.0), 1.0)
        self._gain = self.GAIN_KEEP * self._gain + won
        self.beliefs.observe_gain(won)
