"""Policies without costs: always k tokens of the drafter, or always a prompt-lookup draft."""

from __future__ import annotations

from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.draft import Draft, DraftContext, Drafter
from geminate.speculation.policy.base import UNDRAFTED, Decision, DraftAverages, Reason, empty_reason
from geminate.speculation.sources.constrained import allowed_prefix
from geminate.speculation.sources.grammar import GrammarSource
from geminate.speculation.sources.ngram import NgramIndex, continuation


class FixedPolicy:
    """Always k draft tokens of the drafter, or what still fits; 0 is plain decoding, for the ``reason`` given."""

    def __init__(self, drafter: Drafter | None, k: int, *, reason: Reason = "off") -> None:
        self.averages = DraftAverages()
        self._drafter, self._k, self._reason = drafter, k, reason

    def decide(self, context: DraftContext, limit: int, load: BatchLoad) -> Decision:
        """See `Policy`."""
        k = min(self._k, limit)
        if k == 0 or self._drafter is None:
            return UNDRAFTED[self._reason]
        draft = self._drafter.draft(context, k)
        return Decision(draft=draft, reason=None if draft.token_ids else empty_reason(context))

    def observe(self, decision: Decision, accepted: int) -> None:
        """See `Policy`."""
        self.averages.observe(len(decision.draft.token_ids), accepted)


class NgramPolicy:
    """The longest prompt-lookup draft wherever the text repeats itself, whatever its cost; else a grammar draft."""

    def __init__(self) -> None:
        self.averages = DraftAverages()
        self._index = NgramIndex()
        self._grammar = GrammarSource()

    def decide(self, context: DraftContext, limit: int, load: BatchLoad) -> Decision:
        """See `Policy`."""
        match = self._index.find(context.token_ids)
        if match is not None and limit > 0:
            copied = allowed_prefix(context.constraint, continuation(context.token_ids, match, limit))
            if copied:
                return Decision(draft=Draft(token_ids=copied, source="ngram"))
        forced = self._grammar.offer(context, limit)
        if forced is None:
            return UNDRAFTED["no_match"]
        return Decision(draft=self._grammar.draft(context, forced, limit))

    def observe(self, decision: Decision, accepted: int) -> None:
        """See `Policy`."""
        self.averages.observe(len(decision.draft.token_ids), accepted)
