"""Lines end between words on a terminal, however the text was cut into parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from geminate.cli.wrap import Wrapping
from support.screen import screen


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def wrapped(text: str, width: int, cuts: list[int]) -> list[str]:
    wrapping = Wrapping(width)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return screen("".join(wrapping.wrap(text[a:b]) for a, b in pairwise(edges)), width)


@given(st.text(alphabet="ab \n中é", max_size=120), st.integers(4, 30), st.lists(st.integers(0, 1000), max_size=6))
def test_words_stay_whole(text: str, width: int, cuts: list[int]) -> None:
    shown = wrapped(text, width, cuts)
    assert "".join("".join(shown).split()) == "".join(text.split()), "nothing is lost"
    assert shown == wrapped(text, width, []), "parts do not matter"
    if all(cell_len(word) < width for word in text.split()):
        assert " ".join(shown).split() == text.split(), "no word is broken"


def test_an_example() -> None:
    assert wrapped("Once upon a time there was", 12, [3, 9]) == ["Once upon a", "time there ", "was"]
    assert wrapped("abcdefghijkl", 6, []) == ["abcde", "fghij", "kl"], "a word longer than a line is broken"


def test_a_terminal_that_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in Wrapping(8).wrap("Once upon a time")
