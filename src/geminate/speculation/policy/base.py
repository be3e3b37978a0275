"""The protocol of a policy: each round it decides a sequence's draft, and it learns the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import RoundCosts
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.base import DraftSource, Offer

Reason = Literal[
    "off", "prompt", "last_token", "no_drafter", "no_match", "does_not_pay", "batch_load", "loss_limit", "comparing",
    "low_confidence", "grammar", "failed",
]  # fmt: skip
"""Why a round had no draft: docs/speculation.md explains each."""
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A round's draft; the policy gets it back with the outcome.

    Attributes:
        reason: why there is no draft token; None where there is one.
        source, offer: where the draft comes from; None where nothing was drafted or nothing is to be learned.
        costs, rate: what the draft was weighed with: costs of rounds, and tokens of a plain round of the whole batch.
    """

    draft: Draft
    reason: Reason | None = None
    source: DraftSource | None = None
    offer: Offer | None = None
    costs: RoundCosts | None = None
    rate: float = 1.0


UNDRAFTED: dict[Reason, Decision] = {reason: Decision(draft=Draft(), reason=reason) for reason in REASONS}
NO_DRAFT = UNDRAFTED["prompt"]  # of a turn that no policy was asked about


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
        """A draft of at most ``limit`` >= 1 tokens for the next round, in which ``load`` takes part."""
        ...

    def observe(self, decision: Decision, accepted: int) -> None:
        """How many draft tokens equalled the target's draws."""
        ...


def empty_reason(context: DraftContext) -> Reason:
    """Why a drafter that was asked for tokens gave none."""
    return "low_confidence" if context.constraint is None else "grammar"
