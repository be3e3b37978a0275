"""``auto``: a draft of the drafter, of prompt lookup, of a grammar, or none: whichever gives most tokens per second.

Its decisions depend on timings and chance; the output does not, because it never depends on what was drafted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from geminate.params import MAX_DRAFT
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import DraftContext, Drafter
from geminate.speculation.policy.base import NO_DRAFT, Decision, DraftAverages, Shared
from geminate.speculation.policy.lengths import LengthPlanner, best_length, worth_verifying
from geminate.speculation.policy.safeguards import LossAccount, ProbeSchedule, RestSchedule
from geminate.speculation.sources.base import Offer
from geminate.speculation.sources.grammar import GrammarSource
from geminate.speculation.sources.mtp import MtpSource
from geminate.speculation.sources.ngram import NgramSource


class AutoPolicy:
    """Weighs what the draft sources offer.

    In a batch, a round's time cannot be attributed to one sequence: what a draft adds to it is estimated, the time
    spent deciding is measured, and a sequence whose drafts pay for neither rests.

    Args:
        drafter: proposes tokens; None: only prompt-lookup and grammar drafts are made.
        costs: of passes and draft steps. stats: acceptance, shared by the sequences of an engine.
        copies: whether prompt-lookup (n-gram) drafts are made.
        clock: seconds, for the time spent deciding.
    """

    def __init__(
        self,
        drafter: Drafter | None,
        costs: CostModel,
        stats: AcceptanceStats,
        *,
        copies: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.averages = DraftAverages()
        self.costs = costs
        self.account = LossAccount()
        self._grammar = GrammarSource()
        self._ngram = NgramSource(stats) if copies else None
        self._mtp = None if drafter is None else MtpSource(drafter, stats)
        self._planner = LengthPlanner(costs, stats)
        self._probes = ProbeSchedule(stats)
        self._rest = RestSchedule(stats)
        self._clock = clock

    def decide(self, context: DraftContext, limit: int, load: BatchLoad) -> Decision:
        """See `Policy`."""
        if not load.shared:
            return self._choose(context, limit, load)[0]
        if self._rest.rests():
            return NO_DRAFT
        began = self._clock()
        decision, seconds = self._choose(context, limit, load)
        deciding = self._clock() - began
        if seconds is None:
            return decision
        rate = (1.0 + load.tokens) / seconds[0]
        return replace(decision, shared=Shared(seconds=seconds, rate=rate, deciding=deciding))

    def _choose(self, context: DraftContext, limit: int, load: BatchLoad) -> tuple[Decision, list[float] | None]:
        """A decision, and the seconds of a round by draft length that it was weighed with, if it was."""
        limit = min(limit, MAX_DRAFT)
        plain_unknown = not load.shared and not self.costs.knows_plain
        if limit == 0 or plain_unknown or self.account.wants_plain():
            return NO_DRAFT, None
        seconds = self.costs.round_times(load.rows, prompt_rows=load.prompt_rows, sequences=load.sequences)
        copied = NO_DRAFT if self._ngram is None else self._copy(self._ngram, context, limit, seconds, load)
        forced = self._grammar.offer(context, limit)
        if forced is not None and len(forced.tokens) >= len(copied.draft.token_ids):
            k = best_length(forced.rates, seconds, others=load.tokens)[0]
            draft = self._grammar.draft(context, forced, k)
            return Decision(draft=draft, source=self._grammar, offer=forced), seconds
        if copied.draft.token_ids or self._mtp is None:
            return copied, seconds
        return self._ask_drafter(self._mtp, context, limit, seconds, load), seconds

    def _copy(
        self, ngram: NgramSource, context: DraftContext, limit: int, seconds: Sequence[float], load: BatchLoad
    ) -> Decision:
        """A prompt-lookup draft, if it promises more than the drafter and plain decoding."""
        offer = ngram.offer(context, limit)
        if offer is None:
            return NO_DRAFT
        k, rate = best_length(offer.rates, seconds, others=load.tokens)
        plan = self._planner.current
        if k == 0 or (plan is not None and rate < plan.rate):
            return NO_DRAFT
        return Decision(draft=ngram.draft(context, offer, k), source=ngram, offer=offer)

    def _ask_drafter(
        self, mtp: MtpSource, context: DraftContext, limit: int, seconds: Sequence[float], load: BatchLoad
    ) -> Decision:
        offer = Offer(rates=())
        planner = self._planner
        if load.shared and planner.current is None:
            self._replan(mtp, context, seconds, load)  # a first draft on trial is paid by all
        plan = planner.current
        if self._probes.waits(pays=plan is None or plan.length > 0, sequences=load.sequences):
            return NO_DRAFT
        self._replan(mtp, context, seconds, load)
        plan = planner.current
        assert plan is not None
        if plan.length == 0:
            return Decision(draft=mtp.draft(context, offer, 1), source=mtp, offer=offer)
        draft = mtp.draft(context, offer, limit, plan.stop)
        return Decision(draft=draft.first(worth_verifying(draft, plan, seconds)), source=mtp, offer=offer)

    def _replan(self, mtp: MtpSource, context: DraftContext, seconds: Sequence[float], load: BatchLoad) -> None:
        if self._planner.is_old(load):
            self._planner.plan(mtp.offer(context, MAX_DRAFT).rates, seconds, load)

    def observe(self, decision: Decision, accepted: int, seconds: float | None) -> None:
        """See `Policy`."""
        draft = decision.draft
        count = len(draft.token_ids)
        self.averages.observe(count, accepted)
        if decision.shared is not None:
            self._weigh(decision.shared, count, accepted, drafted=draft.steps > 0)
        self.account.count_round(count)
        if count == 0 and draft.steps == 0:
            self.account.repay()
            return
        if decision.source is not None and decision.offer is not None:
            decision.source.observe(decision.offer, draft, accepted)
        if seconds is not None:
            plain = self.costs.round_time(0)
            self.account.charge(seconds / plain, accepted + 1)
            if draft.steps:
                # A draft after a pause is slower than one of a series, which is what there is to decide about.
                typical = self.costs.round_time(count, steps=draft.steps)
                self._probes.count_gain(accepted + 1 - min(seconds, typical) / plain)

    def _weigh(self, shared: Shared, count: int, accepted: int, *, drafted: bool) -> None:
        """What a shared round's draft was worth, in tokens of the batch."""
        added = shared.seconds[count] - shared.seconds[0] + shared.deciding
        value = accepted - shared.rate * added
        if drafted:
            self._probes.count_gain(value)
        self._rest.weigh(value)
