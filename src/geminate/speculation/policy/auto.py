"""``auto``: a draft of the drafter, of prompt lookup, of a grammar, or none: whichever gives most tokens per second.

Its decisions depend on timings and chance; the output does not, because it never depends on what was drafted.
"""

from __future__ import annotations

from geminate.params import MAX_DRAFT
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Draft, DraftContext, Drafter
from geminate.speculation.policy.account import LossAccount
from geminate.speculation.policy.base import UNDRAFTED, Decision, DraftAverages, Reason, empty_reason
from geminate.speculation.policy.lengths import LengthPlan, LengthPlanner, best_length, make_plan, worth_verifying
from geminate.speculation.sources.base import Offer
from geminate.speculation.sources.grammar import GrammarSource
from geminate.speculation.sources.mtp import MtpSource
from geminate.speculation.sources.ngram import NgramSource

COMPARE_EVERY = 16  # rounds with drafts, times what they gain, after which a plain one shows what it costs now
COMPARE_LEAST = 6  # rounds with drafts that are compared with a plain one; so many it takes while little was compared
MOST_GAIN = 3.0
SERIES = 2  # trials in a row: the first after a pause is slower than one of a series, and is not timed
REST = 16  # shared rounds for which a sequence whose drafts do not pay decides nothing: all wait for its deciding
NOTHING = Offer(rates=())


class AutoPolicy:
    """Weighs what the draft sources offer.

    Args:
        drafter: proposes tokens; None: only prompt-lookup and grammar drafts are made.
        costs: of rounds. stats: acceptance. Both are shared by the sequences of an engine; the account of what drafts
            may lose is a sequence's own.
        copies: whether prompt-lookup (n-gram) drafts are made.
    """

    def __init__(
        self, drafter: Drafter | None, costs: CostModel, stats: AcceptanceStats, *, copies: bool = True
    ) -> None:
        self.averages = DraftAverages()
        self.account = LossAccount()
        self._costs, self._stats = costs, stats
        self._grammar = GrammarSource()
        self._ngram = NgramSource(stats) if copies else None
        self._mtp = None if drafter is None else MtpSource(drafter, stats)
        self._planner = LengthPlanner()
        self._trials = 0  # left of a series
        self._since_plain = 0
        self._rest = 0  # shared rounds left in which nothing is decided
        self._sequences = 1

    def decide(self, context: DraftContext, limit: int, load: BatchLoad) -> Decision:
        """See `Policy`."""
        self._sequences = 1 + load.sequences
        if load.shared and self._rest:
            self._rest -= 1
            return UNDRAFTED["batch_load"]
        if self.account.exhausted:
            return UNDRAFTED["loss_limit"]
        plan = self._planner.current(load, lambda: self._plan(context, load))
        limit = min(limit, MAX_DRAFT)
        copied = None if self._ngram is None else self._copy(self._ngram, context, limit, plan)
        if context.constraint is not None:
            forced = self._grammar.offer(context, limit)
            if forced is not None and (copied is None or len(forced.tokens) >= len(copied.draft.token_ids)):
                k = best_length(forced.rates, plan.costs.rounds, others=plan.plain_rate - 1.0)[0]
                return self._decision(self._grammar.draft(context, forced, k), plan, self._grammar, forced)
        if not load.shared and self._comparison_is_due(plan):
            return UNDRAFTED["comparing"]
        if copied is not None:
            return copied
        if self._mtp is None:
            return UNDRAFTED["no_drafter"]
        return self._ask_drafter(self._mtp, context, limit, load, plan)

    def _comparison_is_due(self, plan: LengthPlan) -> bool:
        often = COMPARE_EVERY * min(plan.rate, MOST_GAIN) if self._costs.settled else COMPARE_LEAST
        return self._since_plain >= often

    def _plan(self, context: DraftContext, load: BatchLoad) -> LengthPlan:
        rates = [] if self._mtp is None else self._mtp.offer(context, MAX_DRAFT).rates
        costs = self._costs.round_costs(len(context.token_ids), load)
        return make_plan(rates, self._stats.calibration.values(), costs, others=load.tokens)

    def _copy(self, ngram: NgramSource, context: DraftContext, limit: int, plan: LengthPlan) -> Decision | None:
        """A prompt-lookup draft, if it promises more than the drafter and plain decoding."""
        offer = ngram.offer(context, limit)
        if offer is None:
            return None
        k, rate = best_length(offer.rates, plan.costs.rounds, others=plan.plain_rate - 1.0)
        if k == 0 or rate < plan.rate:
            return None
        draft = ngram.draft(context, offer, k)
        return self._decision(draft, plan, ngram, offer) if draft.token_ids else None

    def _ask_drafter(
        self, mtp: MtpSource, context: DraftContext, limit: int, load: BatchLoad, plan: LengthPlan
    ) -> Decision:
        if plan.length == 0:
            if not self._may_try(plan, load):
                self._rest = REST
                return UNDRAFTED["batch_load" if load.shared else "does_not_pay"]
            draft = mtp.draft(context, NOTHING, min(limit, plan.trial))
            return self._decision(draft, plan, mtp, NOTHING, empty_reason(context))
        self._trials = 0
        draft = mtp.draft(context, NOTHING, limit, plan.stop)
        reason: Reason = "low_confidence" if draft.token_ids else empty_reason(context)
        return self._decision(draft.first(worth_verifying(draft, plan)), plan, mtp, NOTHING, reason)

    def _may_try(self, plan: LengthPlan, load: BatchLoad) -> bool:
        """Whether to draft although it is not expected to pay: acceptance and costs cannot be learned without."""
        if self._trials == 0:
            if not self.account.bears(plan.price):
                return False
            self._trials = 1 if load.shared or not self.account.bears(SERIES * plan.price) else SERIES
        self._trials -= 1
        return True

    @staticmethod
    def _decision(
        draft: Draft,
        plan: LengthPlan,
        source: GrammarSource | NgramSource | MtpSource,
        offer: Offer,
        reason: Reason = "does_not_pay",
    ) -> Decision:
        """``reason`` counts where the draft is empty."""
        none = None if draft.token_ids else reason
        return Decision(draft=draft, reason=none, source=source, offer=offer, costs=plan.costs, rate=plan.plain_rate)

    def observe(self, decision: Decision, accepted: int) -> None:
        """See `Policy`."""
        draft, costs = decision.draft, decision.costs
        count = len(draft.token_ids)
        self.averages.observe(count, accepted)
        self._since_plain = self._since_plain + 1 if count or draft.steps else 0
        if costs is None:
            self.account.count(0.0, self._sequences)
            return
        self.account.count(accepted - decision.rate * costs.added(count, draft.steps), self._sequences)
        if decision.source is not None and decision.offer is not None:
            decision.source.observe(decision.offer, draft, accepted)
