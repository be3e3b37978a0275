"""Copied drafts: what is found, what is copied, and that the index equals a plain search."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geminate.speculation.sources.ngram import LEAST, MOST, Match, NgramIndex, continuation


def search(tokens: list[int]) -> Match | None:
    """The textbook: try every earlier end, latest first."""
    for start in range(len(tokens) - 1, LEAST - 1, -1):
        if tokens[start - LEAST : start] == tokens[-LEAST:]:
            length = LEAST
            while length < MOST and length < start and tokens[start - length - 1] == tokens[-length - 1]:
                length += 1
            return Match(length=length, start=start)
    return None


@given(tokens=st.lists(st.integers(0, 2), max_size=60), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_index_equals_search(tokens: list[int], cuts: list[int]) -> None:
    index, at = NgramIndex(), 0
    for cut in cuts:
        at = min(at + cut, len(tokens))
        assert index.find(tokens[:at]) == search(tokens[:at])


def test_copies_feed_on_themselves() -> None:
    tokens = [9, 1, 2, 3, 1, 2, 3]
    match = NgramIndex().find(tokens)
    assert match == Match(length=3, start=4)
    assert continuation(tokens, match, 7) == (1, 2, 3, 1, 2, 3, 1)
    far = [5, 6, 7, 8, 9, 5, 6, 7]
    found = NgramIndex().find(far)
    assert found is not None and continuation(far, found, 3) == (8, 9, 5)


def test_short_and_new_text_has_no_match() -> None:
    assert NgramIndex().find([]) is None and NgramIndex().find([1, 1]) is None
    assert NgramIndex().find([1, 2, 3, 4, 5]) is None
