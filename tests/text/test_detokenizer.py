"""Deltas add up to `decode`, for any tokens; what is emitted is whole characters."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.text.detokenizer import Detokenizer
from geminate.text.tokenizer import Tokenizer
from support.tiny_tokenizer import embedded_tokenizer, tiny_tokenizer

TINY, EMBEDDED = tiny_tokenizer(), embedded_tokenizer()
both = pytest.mark.parametrize("tokenizer", [TINY, EMBEDDED], ids=["tiny", "embedded"])


def byte(value: int, tokenizer: Tokenizer = TINY) -> int:
    token = tokenizer.token_id(f"<0x{value:02X}>")
    assert token is not None
    return token


def deltas(tokenizer: Tokenizer, ids: list[int], skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(), st.booleans())
def test_text_comes_back(text: str, skip_special: bool) -> None:
    for tokenizer in (TINY, EMBEDDED):
        ids = tokenizer.encode(text)
        parts = deltas(tokenizer, ids, skip_special)
        assert "".join(parts) == tokenizer.decode(ids, skip_special=skip_special)
        if "\ufffd" not in text:
            assert not any("\ufffd" in part for part in parts)


# Bytes, specials, ordinary tokens and ids beyond the vocabulary, mixed densely.
tiny_ids = st.lists(
    st.one_of(
        st.integers(0, TINY.vocab_size + 3),
        st.sampled_from([byte(b) for b in (0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x91, 0xA9, 0xC3, 0xFF, 0x41)]),
        st.integers(0, 15),
    ),
    max_size=30,
)


@settings(deadline=None)  # a busy machine is no failure
@given(tiny_ids, st.booleans())
def test_any_ids_add_up_to_decode(ids: list[int], skip_special: bool) -> None:
    parts = deltas(TINY, ids, skip_special)
    assert "".join(parts) == TINY.decode(ids, skip_special=skip_special)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.integers(0, 8191), max_size=40), st.booleans())
def test_any_embedded_ids_add_up_to_decode(ids: list[int], skip_special: bool) -> None:
    assert "".join(deltas(EMBEDDED, ids, skip_special)) == EMBEDDED.decode(ids, skip_special=skip_special)


@settings(deadline=None)  # a busy machine is no failure
@given(tiny_ids, st.data())
def test_every_split_of_pushes_gives_the_same(ids: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ids)))
    detokenizer = Detokenizer(TINY)
    text = detokenizer.extend(ids[:cut]) + detokenizer.extend(ids[cut:]) + detokenizer.flush()
    assert text == "".join(deltas(TINY, ids))


def test_every_id_of_the_vocabulary() -> None:
    for tokenizer in (TINY, EMBEDDED):
        for token in range(tokenizer.vocab_size):
            assert "".join(deltas(tokenizer, [token], False)) == tokenizer.decode([token], skip_special=False)


def test_a_character_of_bytes_comes_whole() -> None:
    euro = [byte(b) for b in "€".encode()]
    a = TINY.encode("a", add_bos=False)[0]
    assert deltas(TINY, [*euro, a]) == ["", "", "", "€a", ""]
    assert deltas(TINY, euro) == ["", "", "", "€"]


def test_broken_bytes_become_replacement_characters_as_in_decode() -> None:
    a = TINY.encode("a", add_bos=False)[0]
    for ids in ([byte(0xE2)], [byte(0xE2), a, byte(0x82)], [*map(byte, "€".encode()), byte(0xFF)]):
        assert "".join(deltas(TINY, ids)) == TINY.decode(ids)


@both
@pytest.mark.parametrize("skip_special", [True, False])
def test_a_cut_within_a_character_keeps_those_before_it(tokenizer: Tokenizer, skip_special: bool) -> None:
    run = [byte(b, tokenizer) for b in "😀😃".encode()]
    for cut in range(len(run)):
        ids = [*tokenizer.encode("hi", add_bos=False), *run[:cut]]
        expected = "hi" + "😀" * (cut // 4) + "\ufffd" * (cut % 4 > 0)
        assert (
            "".join(deltas(tokenizer, ids, skip_special))
            == expected
            == tokenizer.decode(ids, skip_special=skip_special)
        )


def test_a_skipped_special_does_not_end_a_run_of_bytes() -> None:
    ids = [byte(0xC3), 2, byte(0xA9)]
    assert deltas(TINY, ids) == ["", "", "", "é"]
    assert "".join(deltas(TINY, ids, skip_special=False)) == "\ufffd<bos>\ufffd"


@both
def test_emoji_and_combining_marks(tokenizer: Tokenizer) -> None:
    text = "a👩‍👩‍👧b e\u0301 क्षि 🏳️‍🌈."
    ids = tokenizer.encode(text)
    parts = deltas(tokenizer, ids)
    assert "".join(parts) == text and all("\ufffd" not in part for part in parts)


def test_cost_does_not_grow_with_the_text() -> None:
    ids = TINY.encode("Hello the world ö 日本. ") * 400
    detokenizer = Detokenizer(TINY)
    best = [1e9, 1e9]
    for _ in range(3):
        for half in range(2):
            started = time.perf_counter()
            detokenizer.extend(ids)
            best[half] = min(best[half], time.perf_counter() - started)
            if half == 0:
                detokenizer.extend(ids * 4)
    assert best[1] < 5 * best[0] + 0.01


def test_flush_starts_anew() -> None:
    detokenizer = Detokenizer(TINY)
    detokenizer.push(byte(0xE2))
    assert detokenizer.flush() == "\ufffd" and detokenizer.flush() == ""
    assert detokenizer.push(TINY.token_id("▁the")) == " the"  # type: ignore[arg-type]
