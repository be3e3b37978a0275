"""What a drafter is: anything that guesses the next tokens. Guesses change the speed, never the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from geminate.arrays import F32
from geminate.decoding.constraint import Constraint
from geminate.decoding.draft_rule import DraftRule, DraftStop
from geminate.kv.store import KVStore


@dataclass(kw_only=True, slots=True)  # one every round: a frozen one takes three times as long to make
class DraftContext:
    """What a drafter may look at.

    Attributes:
        token_ids: prompt and answer so far; the last one is not processed by the target yet.
        hidden: float32 [hidden], the target's post-norm hidden state of the row before the last token.
        cache: the target's KV cache, positions 0..len(token_ids)-2.
        rule: how to choose guesses, with the noise the target will draw with.
        stop: when to end before k guesses; None: never. A drafter without confidence may ignore it.
        constraint: the grammar's state after ``token_ids``; a drafter may advance it and rolls back what it advanced.
    """

    token_ids: list[int]
    hidden: F32
    cache: KVStore
    rule: DraftRule
    stop: DraftStop | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Guesses, how sure the drafter was of each (0..1; empty if it cannot say), and where they come from.

    Attributes:
        steps: draft steps made for them, when more than are left.
    """

    token_ids: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    source: Literal["mtp", "ngram", "forced"] = "mtp"
    steps: int = 0

    def first(self, k: int) -> Draft:
        """The first k guesses."""
        return replace(self, token_ids=self.token_ids[:k], confidence=self.confidence[:k])


class Drafter(Protocol):
    """Guesses up to k tokens after ``context.token_ids``."""

    def draft(self, context: DraftContext, k: int) -> Draft:
        """At most k guesses; fewer, or none, is fine."""
        ...
