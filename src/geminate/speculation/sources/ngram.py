"""n-gram drafts (prompt lookup): what followed the same words before, in the prompt or the answer so far."""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 3  # tokens that must agree
MOST = 32  # agreement is not counted further


@dataclass(frozen=True, kw_only=True)
class Match:
    """An earlier place that ends in the same tokens.

    Attributes:
        length: how many tokens agree, LEAST .. MOST.
        start: index of the token that followed there.
    """

    length: int
    start: int


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
