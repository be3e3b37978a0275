"""Drafts, and the protocol of a drafter: anything that proposes next tokens. Drafts never change the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from geminate.arrays import F32
from geminate.decoding.constraint import Constraint
from geminate.decoding.draft_rule import DraftRule, DraftStop
from geminate.kv.store import KVStore


@dataclass(kw_only=True, slots=True)  # one every round: a frozen one takes three times as long to make
class DraftContext:
    """What a drafter may use.

    Attributes:
        token_ids: prompt and completion so far; the last one is not processed by the target yet.
        hidden: float32 [hidden], the target's post-norm hidden state of the row before the last token.
        cache: the target's KV cache, positions 0..len(token_ids)-2.
        rule: how to choose draft tokens, with the noise the target will draw with.
        stop: when to end before k draft tokens; None: never. A drafter without confidence may ignore it.
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
    """Draft tokens, and where they come from.

    Attributes:
        confidence: the drafter's in each token, 0..1, including tokens later cut by `first`; empty if it has none.
        steps: drafter forward steps spent on this draft, including tokens later cut by `first`; 0 if no drafter ran.
    """

    token_ids: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    source: Literal["mtp", "ngram", "forced"] = "mtp"
    steps: int = 0

    def first(self, k: int) -> Draft:
        """The first k draft tokens."""
        if k >= len(self.token_ids):
            return self
        return replace(self, token_ids=self.token_ids[:k])


class Drafter(Protocol):
    """Proposes up to k tokens after ``context.token_ids``."""

    def draft(self, context: DraftContext, k: int) -> Draft:
        """At most k draft tokens; fewer, or none, is fine."""
        ...
