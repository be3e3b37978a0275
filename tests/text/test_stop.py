"""Stop strings: found across deltas, cut where single characters would cut, nothing emitted too early."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.errors import ParameterError
from geminate.text.stop import StopFilter


def run(stops: list[str], deltas: list[str]) -> tuple[str, StopFilter]:
    made = StopFilter(stops)
    text = "".join([made.push(delta) for delta in deltas])
    return text + ("" if made.matched else made.flush()), made


def by_the_book(stops: list[str], text: str) -> tuple[str, str | None]:
    """The first prefix that ends with a stop string decides; the longest such string is cut off."""
    for end in range(1, len(text) + 1):
        hits = [s for s in stops if text[:end].endswith(s)]
        if hits:
            longest = max(hits, key=len)
            return text[: end - len(longest)], longest
    return text, None


alphabet = st.text("ab\n", max_size=14)
stop_lists = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4, unique=True)


@settings(deadline=None)  # a busy machine is no failure
@given(stop_lists, st.lists(st.text("ab\n", max_size=5), max_size=10))
def test_any_split_cuts_where_characters_would(stops: list[str], deltas: list[str]) -> None:
    text, matched = by_the_book(stops, "".join(deltas))
    seen, made = run(stops, deltas)
    assert (seen, made.matched) == (text, matched)


@settings(deadline=None)  # a busy machine is no failure
@given(stop_lists, st.lists(st.text("ab\n", max_size=5), max_size=10))
def test_held_back_no_more_than_needed(stops: list[str], deltas: list[str]) -> None:
    made = StopFilter(stops)
    text = seen = ""
    for delta in deltas:
        text += delta
        seen += made.push(delta)
        if made.matched:
            break
        held = text[len(seen) :]
        longest = max((n for s in stops for n in range(len(s)) if text.endswith(s[:n])), default=0)
        assert text == seen + held and len(held) == longest


def test_across_token_boundaries() -> None:
    made = StopFilter(["END"])
    assert made.push("textE") == "text"
    assert made.push("N") == ""
    assert made.push("Dmore") == ""
    assert made.matched == "END"
    assert made.push("after") == "" and made.flush() == ""


def test_false_alarm_is_let_go() -> None:
    made = StopFilter(["END"])
    assert [made.push(d) for d in ("E", "N", "E", "N", "!")] == ["", "", "EN", "", "EN!"]
    assert made.matched is None


def test_flush_gives_what_was_held() -> None:
    made = StopFilter(["END"])
    assert made.push("aEN") == "a" and made.flush() == "EN" and made.matched is None


def test_stop_at_the_start_leaves_no_text() -> None:
    text, made = run(["x"], ["xyz"])
    assert text == "" and made.matched == "x"


def test_longest_of_those_complete_together() -> None:
    assert run(["c", "abc"], ["zabc"])[0] == "z"
    assert run(["b", "abc"], ["zabc"])[0] == "za"


def test_empty_deltas_change_nothing() -> None:
    text, made = run(["!"], ["", "a", "", "", "é", "!"])
    assert text == "aé" and made.matched == "!"


def test_unicode_and_newlines() -> None:
    assert run(["\n\n"], ["a\n", "b", "\n", "\nc"])[0] == "a\nb"
    assert run(["👩‍👧"], ["x👩", "\u200d", "👧y"])[0] == "x"


def test_no_stops_pass_everything_at_once() -> None:
    made = StopFilter([])
    assert made.push("abc") == "abc" and made.flush() == ""


def test_long_repetitive_stop_is_linear() -> None:
    stop = "a" * 2000 + "b"
    text, made = run([stop], ["a" * 50] * 2000)
    assert text == "a" * 100_000 and made.matched is None
    assert run([stop], ["a" * 5000, "b"])[0] == "a" * 3000


def test_empty_stop_is_refused() -> None:
    with pytest.raises(ParameterError, match="must not be empty"):
        StopFilter(["a", ""])
