"""The protocol of a draft source: it offers drafts with their chance of acceptance; a policy decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from geminate.decoding.draft_rule import DraftStop
from geminate.speculation.draft import Draft, DraftContext


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """An earlier place in a sequence that ends in the same tokens.

    Attributes:
        length: how many tokens agree.
        start: index of the token that followed there.
    """

    length: int
    start: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a source could draft now.

    Attributes:
        rates: estimated chance that draft token i is accepted if those before it were, i from 0.
        tokens: the tokens, where they are known already; else `DraftSource.draft` makes them.
        match: of a prompt-lookup draft: where it is copied from.
    """

    rates: Sequence[float]
    tokens: tuple[int, ...] = ()
    match: Match | None = None


class DraftSource(Protocol):
    """Proposes tokens for one sequence. Proposals change the speed, never the output.

    Attributes:
        name: as `Draft.source` has it.
    """

    @property
    def name(self) -> str: ...

    def offer(self, context: DraftContext, limit: int) -> Offer | None:
        """What could be drafted, at most ``limit`` tokens, without running a model; None for nothing."""
        ...

    def draft(self, context: DraftContext, offer: Offer, k: int, stop: DraftStop | None = None) -> Draft:
        """At most k tokens of an offer for the same context; fewer, or none, is fine."""
        ...

    def observe(self, offer: Offer, draft: Draft, accepted: int) -> None:
        """The first ``accepted`` tokens of a draft were the target's."""
        ...
