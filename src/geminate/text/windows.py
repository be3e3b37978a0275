"""A long text as windows of tokens for teacher-forced passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geminate.arrays import I32
from geminate.errors import ParameterError

SHORTEST = 8


def windows(ids: Sequence[int], bos: int | None, length: int, most: int | None = None) -> list[I32]:
    """Cut a text into windows of ``length`` tokens, bos included; a shorter rest is left out.

    Args:
        ids: of the whole text, without bos. bos: put before each window; None for a model without one.
        most: stop after this many tokens of text (one window at least).

    Returns:
        int32 [length] each.

    Raises:
        ParameterError: fewer tokens than one window takes, or a window too short to mean anything.
    """
    if length < SHORTEST:
        raise ParameterError(f"a window must have at least {SHORTEST} tokens, not {length}")
    if most is not None and most < 1:
        raise ParameterError(f"the number of tokens must be at least 1, not {most}")
    head = [] if bos is None else [bos]
    own = length - len(head)
    count = len(ids) // own
    if count == 0:
        raise ParameterError(
            f"the text has {len(ids)} tokens and a window takes {own}: give a longer text or a smaller window"
        )
    if most is not None:
        count = min(count, max(1, most // own))
    return [np.array([*head, *ids[i * own : (i + 1) * own]], dtype=np.int32) for i in range(count)]
