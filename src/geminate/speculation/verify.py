"""Verification: the target's own draw at every row; go on while it equals the draft.

The emitted tokens are the target's draws and nothing else, so they cannot depend on the drafter. With
common noise (Daliri, Musco and Suresh 2024, "Coupling without communication and drafter-invariant
speculative decoding") that holds for sampling as it does for argmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)  # one every round: a frozen one takes three times as long to make
class Verdict:
    """Outcome of a round.

    Attributes:
        tokens: the target's draws: the accepted drafts, then one token of its own.
        accepted: how many drafts equalled the draw, ``len(tokens) - 1``.
    """

    tokens: tuple[int, ...]
    accepted: int


def verify(draft: Sequence[int], draw: Callable[[int], int]) -> Verdict:
    """Compare drafts with draws.

    Args:
        draft: k draft tokens, possibly none (plain decoding).
        draw: the target's draw at row i, 0 <= i <= k; row i follows the drafts 1..i. Called in order,
            only as far as needed.
    """
    tokens: list[int] = []
    for row in range(len(draft) + 1):
        token = draw(row)
        tokens.append(token)
        if row == len(draft) or token != draft[row]:
            break
    return Verdict(tokens=tuple(tokens), accepted=len(tokens) - 1)
