"""n-gram drafts (prompt lookup): what followed the same tokens before, in the prompt or the completion so far."""

from __future__ import annotations

from geminate.decoding.draft_rule import DraftStop
from geminate.speculation.acceptance import AcceptanceStats, MatchRates
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.base import Match, Offer
from geminate.speculation.sources.constrained import allowed_prefix

LEAST = 3  # tokens that must agree
MOST = 32  # agreement is not counted further


class NgramIndex:
    """Latest place of every LEAST-gram of one growing sequence; as good as searching, in constant time."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._done = LEAST  # grams that end before this index are known

    def find(self, tokens: list[int]) -> Match | None:
        """The latest earlier place that ends like ``tokens``, which only ever grows between calls."""
        # The gram at the very end is what is looked for, so it is learned with the next token.
        for end in range(self._done, len(tokens)):
            self._after[tuple(tokens[end - LEAST : end])] = end
        self._done = max(self._done, len(tokens))
        if len(tokens) < LEAST:
            return None
        start = self._after.get(tuple(tokens[-LEAST:]))
        if start is None:
            return None
        length = LEAST
        while length < MOST and length < start and tokens[start - length - 1] == tokens[-length - 1]:
            length += 1
        return Match(length=length, start=start)


def continuation(tokens: list[int], match: Match, k: int) -> tuple[int, ...]:
    """k tokens from the match onwards; past the end of ``tokens`` the copy feeds on itself, as a loop does."""
    period = len(tokens) - match.start
    return tuple(tokens[match.start + i % period] for i in range(k))


class NgramSource:
    """Copies what followed the last tokens where they stood before.

    Args:
        stats: acceptance of all sequences, on which this one's estimates lean while it has few of its own.
    """

    name = "ngram"
    REPLAN = 8  # offers for which estimates are used again: for a small model, deciding costs as much as a pass

    def __init__(self, stats: AcceptanceStats) -> None:
        self._stats = stats
        self._index = NgramIndex()
        self._own = MatchRates(keep=0.966, weight=2.0)
        self._rates: list[float] = []
        self._age = self.REPLAN
        self._reach = 4

    def offer(self, context: DraftContext, limit: int) -> Offer | None:
        """See `DraftSource`."""
        match = self._index.find(context.token_ids)
        if match is None or limit == 0:
            return None
        self._age += 1
        if self._age > self.REPLAN:
            self._age = 0
            self._rates = self._own.values(lean=self._stats.matches.values())
        rates = [self._rates[MatchRates.kind(match.length + i)] for i in range(min(limit, self._reach))]
        return Offer(rates=rates, match=match)

    def draft(self, context: DraftContext, offer: Offer, k: int, stop: DraftStop | None = None) -> Draft:
        """See `DraftSource`; cut where a grammar forbids the copy."""
        assert offer.match is not None
        copied = allowed_prefix(context.constraint, continuation(context.token_ids, offer.match, k))
        return Draft(token_ids=copied, source="ngram")

    def observe(self, offer: Offer, draft: Draft, accepted: int) -> None:
        """See `DraftSource`."""
        count = len(draft.token_ids)
        if accepted == count == self._reach:
            self._reach *= 2
        assert offer.match is not None
        self._stats.matches.observe_round(offer.match.length, count, accepted)
        self._own.observe_round(offer.match.length, count, accepted)
