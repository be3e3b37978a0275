"""The protocol of a policy: each round it decides a sequence's draft, and it learns the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.base import DraftSource, Offer


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What a decision in a shared round was weighed against.

    Attributes:
        seconds: of the round by draft length, draft steps aside. rate: the batch's tokens per second without drafts.
        deciding: seconds that the decision took.
    """

    seconds: Sequence[float]
    rate: float
    deciding: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A round's draft; the policy gets it back with the outcome.

    Attributes:
        source, offer: where the draft comes from; None where nothing was drafted or nothing is to be learned.
        shared: in a shared round that was weighed; else None.
    """

    draft: Draft
    source: DraftSource | None = None
    offer: Offer | None = None
    shared: Shared | None = None


NO_DRAFT = Decision(draft=Draft())


class DraftAverages:
    """Exponential averages of a sequence's rounds.

    Attributes:
        mean_drafted: draft tokens per round. mean_accepted: how many of them were right.
    """

    WEIGHT = 0.1

    def __init__(self) -> None:
        self.mean_drafted = self.mean_accepted = 0.0

    def observe(self, drafted: int, accepted: int) -> None:
        """Count a round."""
        self.mean_drafted += self.WEIGHT * (drafted - self.mean_drafted)
        self.mean_accepted += self.WEIGHT * (accepted - self.mean_accepted)


class Policy(Protocol):
    """Decides the drafts of one sequence."""

    averages: DraftAverages

    def decide(self, context: DraftContext, limit: int, load: BatchLoad) -> Decision:
        """A draft of at most ``limit`` tokens for the next round, in which ``load`` takes part."""
        ...

    def observe(self, decision: Decision, accepted: int, seconds: float | None) -> None:
        """How many draft tokens equalled the target's draws, and the round's seconds (None in a shared round)."""
        ...
