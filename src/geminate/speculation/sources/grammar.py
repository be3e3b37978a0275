"""Text that a grammar forces, as drafts: they cost nothing to make."""

from __future__ import annotations

from geminate.decoding.draft_rule import DraftStop
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.base import Offer

FORCED = 0.99
"""Chance that a token of forced text is the one emitted: the same text may be split into other tokens."""


class GrammarSource:
    """The tokens about which the sequence's grammar leaves no choice."""

    name = "forced"

    def offer(self, context: DraftContext, limit: int) -> Offer | None:
        """See `DraftSource`."""
        if context.constraint is None or limit == 0:
            return None
        tokens = context.constraint.forced()[:limit]
        return Offer(rates=[FORCED] * len(tokens), tokens=tokens) if tokens else None

    def draft(self, context: DraftContext, offer: Offer, k: int, stop: DraftStop | None = None) -> Draft:
        """See `DraftSource`."""
        return Draft(token_ids=offer.tokens[:k], source="forced")

    def observe(self, offer: Offer, draft: Draft, accepted: int) -> None:
        """See `DraftSource`; there is nothing to learn."""
