"""The MTP drafter as a `Drafter`."""

from __future__ import annotations

from geminate.runtime.drafter import DrafterModel
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.grammar import constrained_draft


class MtpDrafter:
    """Guesses with Gemma 4's assistant model."""

    def __init__(self, model: DrafterModel) -> None:
        self.model = model

    def draft(self, context: DraftContext, k: int) -> Draft:
        """k guesses, or fewer where ``context.stop`` says so; one native call for all of them.

        Under a grammar the steps are single calls; see `geminate.speculation.sources.grammar`.
        """
        if k == 0:
            return Draft()
        if context.constraint is not None:
            return constrained_draft(self.model, context, k)
        ids, confidence = self.model.draft(
            context.token_ids[-1], context.hidden, context.cache, k, context.rule, context.stop
        )
        return Draft(token_ids=tuple(ids.tolist()), confidence=tuple(confidence.tolist()), steps=len(ids))
