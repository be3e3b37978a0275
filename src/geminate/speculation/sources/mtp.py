"""The MTP drafter: Gemma 4's assistant model as a `Drafter`, and as a draft source of one sequence."""

from __future__ import annotations

from geminate.decoding.draft_rule import DraftStop, confidence_bin
from geminate.params import MAX_DRAFT
from geminate.runtime.drafter import DrafterModel
from geminate.speculation.acceptance import AcceptanceStats, PositionRates
from geminate.speculation.draft import Draft, DraftContext, Drafter
from geminate.speculation.sources.base import Offer
from geminate.speculation.sources.constrained import constrained_draft


class MtpDrafter:
    """Drafts with a compiled assistant model."""

    def __init__(self, model: DrafterModel) -> None:
        self.model = model

    def draft(self, context: DraftContext, k: int) -> Draft:
        """k draft tokens, or fewer by ``context.stop``; one native call for all of them.

        Under a grammar the steps are single calls; see `geminate.speculation.sources.constrained`.
        """
        if k == 0:
            return Draft()
        if context.constraint is not None:
            return constrained_draft(self.model, context, k)
        ids, confidence = self.model.draft(
            context.token_ids[-1], context.hidden, context.cache, k, context.rule, context.stop
        )
        return Draft(token_ids=tuple(ids.tolist()), confidence=tuple(confidence.tolist()), steps=len(ids))


FIRST = 4


class MtpSource:
    """A sequence's use of the drafter: what was accepted of its drafts, and how long they may be.

    Drafts have at most `FIRST` tokens until one of that length was accepted whole, then twice as many, and so on: a new
    text may be nothing like the last.

    Args:
        drafter: proposes the tokens.
        stats: acceptance of all sequences, on which this one's estimates lean while it has few of its own.
    """

    name = "mtp"

    def __init__(self, drafter: Drafter, stats: AcceptanceStats) -> None:
        self._drafter, self._stats = drafter, stats
        self._own = PositionRates(keep=0.966)
        self._reach = FIRST

    def offer(self, context: DraftContext, limit: int) -> Offer:
        """See `DraftSource`; ``limit`` bounds the draft, not the rates."""
        return Offer(rates=self._own.values(lean=self._stats.positions.values()))

    def draft(self, context: DraftContext, offer: Offer, k: int, stop: DraftStop | None = None) -> Draft:
        """See `DraftSource`."""
        context.stop = stop
        return self._drafter.draft(context, min(k, self._reach, MAX_DRAFT))

    def observe(self, offer: Offer, draft: Draft, accepted: int) -> None:
        """See `DraftSource`."""
        count = len(draft.token_ids)
        if accepted == count == self._reach:
            self._reach *= 2
        calibration, chance = self._stats.calibration, None
        if count < len(draft.confidence):
            chance = calibration.value(confidence_bin(draft.confidence[count]))
        self._own.observe_round(count, accepted, chance)
        self._stats.positions.observe_round(count, accepted, chance)
        calibration.observe_round(draft.confidence, count, accepted)
