"""The page's modules alone, inside the browser: events, alignment, counts, comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.browser import Browser
from support.fake_chat import FakeChat


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Browser]:
    with FakeChat() as server:
        browser.open(server.url)
        yield browser


def events(page: Browser, chunks: list[bytes]) -> list[str]:
    """Events of a body that arrives in these pieces."""
    script = """
    const { events } = await load('sse.js');
    const pieces = args[0].map((piece) => new Uint8Array(piece));
    const stream = new ReadableStream({ pull(to) { pieces.length ? to.enqueue(pieces.shift()) : to.close(); } });
    const found = [];
    for await (const data of events(stream)) found.push(data);
    return found;
    """
    return list(page.module(script, [list(chunk) for chunk in chunks]))


def test_events_do_not_depend_on_how_bytes_arrive(page: Browser) -> None:
    text = 'data: {"a":"ü€😀"}\r\n\r\n: comment\nevent: x\ndata: one\ndata:two\n\n'
    body = (text + "data:  three\r\rdata\n\nid: 1\n\n").encode()
    want = ['{"a":"ü€😀"}', "one\ntwo", " three", ""]
    assert events(page, [body]) == want
    assert events(page, [bytes([byte]) for byte in body]) == want
    for cut in range(1, len(body)):
        assert events(page, [body[:cut], body[cut:]]) == want, cut


def test_an_event_that_is_not_closed_is_dropped(page: Browser) -> None:
    assert events(page, [b"data: whole\n\ndata: half"]) == ["whole"]


def aligned(page: Browser, *steps: tuple[list[tuple[int, str, str]], list[tuple[str, str]]]) -> list[list[Any]]:
    """Pieces of these (tokens, texts) steps: [text, kind, origin, ids]."""
    script = """
    const { Aligner } = await load('align.js');
    const aligner = new Aligner();
    const found = [];
    for (const [tokens, texts] of args[0]) {
      aligner.tokens(tokens.map(([id, text, origin]) => ({ id, text, origin })));
      for (const [kind, text] of texts) found.push(...aligner.text(kind, text));
    }
    found.push(...aligner.flush());
    return found.map(({ text, kind, origin, ids }) => [text, kind, origin, ids]);
    """
    return list(page.module(script, steps))


def test_tokens_and_text_side_by_side(page: Browser) -> None:
    tokens = [(1, "One", "target"), (2, " two", "drafter")]
    assert aligned(page, (tokens, [("content", "One two")])) == [
        ["One", "content", "target", [1]],
        [" two", "content", "drafter", [2]],
    ]


def test_special_tokens_have_no_text(page: Browser) -> None:
    thought = [(100, "<|channel>", "target"), (5, "thought", "target"), (6, "\n", "target"), (7, "Hm", "drafter")]
    closing = [(101, "<channel|>", "drafter"), (8, "So", "target"), (106, "<turn|>", "target")]
    assert aligned(page, (thought, [("reasoning", "Hm")]), (closing, [("content", "So")])) == [
        ["Hm", "reasoning", "drafter", [7]],
        ["So", "content", "target", [8]],
    ]


def test_bytes_of_a_character_are_one_piece(page: Browser) -> None:
    four = [(20 + i, "\ufffd", "drafter") for i in range(4)]
    assert aligned(page, (four[:2], []), (four[2:], []), ([(9, " end", "target")], [("content", "😀 end")])) == [
        ["😀", "content", "drafter", [20, 21, 22, 23]],
        [" end", "content", "target", [9]],
    ]
    named = [(30 + i, f"<0x{byte:02X}>", "target") for i, byte in enumerate("é".encode())]
    assert aligned(page, (named, [("content", "é")])) == [["é", "content", "target", [30, 31]]]


def test_text_that_was_held_back(page: Browser) -> None:
    # A stop string may begin inside a token: its head is certain before its tail.
    steps = (([(1, "abc", "copied")], [("content", "a")]), ([(2, "d", "target")], [("content", "bcd")]))
    assert aligned(page, *steps) == [
        ["a", "content", "copied", [1]],
        ["bc", "content", "copied", [1]],
        ["d", "content", "target", [2]],
    ]


def test_no_text_is_ever_lost(page: Browser) -> None:
    odd = ([(1, "something else", "target")], [("content", "What "), ("reasoning", "came")])
    pieces = aligned(page, odd)
    assert "".join(piece[0] for piece in pieces) == "What came"
    assert aligned(page, ([], [("content", "no trace")])) == [["no trace", "content", None, []]]


def test_counts_of_a_trace(page: Browser) -> None:
    script = """
    const { Tally } = await load('tally.js');
    const tally = new Tally();
    const tokens = (...origins) => origins.map((origin, id) => ({ id, origin, text: '' }));
    const early = [tally.speed, tally.acceptanceLength];
    tally.round({ tokens: tokens('target'), drafted: 0, accepted: 0 }, 1000);
    tally.round({ tokens: tokens('drafter', 'copied', 'target'), drafted: 3, accepted: 2 }, 1100);
    tally.round({ tokens: tokens('target'), drafted: 2, accepted: 0 }, 1500);
    const live = [tally.speed, tally.acceptanceLength];
    tally.round({ tokens: tokens('target'), drafted: 0, accepted: 0 }, 9000);
    const later = tally.speed;
    tally.timings = { predicted_per_second: 7, acceptance_length: 1.5 };
    return { early, live, later, end: [tally.speed, tally.acceptanceLength], positions: tally.positions,
             origins: tally.origins, tokens: tally.tokens };
    """
    assert page.module(script) == {
        "early": [None, None],
        "live": [8, 5 / 3],  # 4 tokens in half a second; the first token began it
        "later": pytest.approx(1000 / 7500),  # the last two seconds and the round they began in
        "end": [7, 1.5],
        "positions": [{"drafted": 2, "accepted": 1}, {"drafted": 2, "accepted": 1}, {"drafted": 1, "accepted": 0}],
        "origins": {"target": 4, "drafter": 1, "copied": 1, "forced": 0},
        "tokens": 6,
    }


def test_the_page_says_why_rounds_had_no_draft(page: Browser) -> None:
    script = """
    const { Tally } = await load('tally.js');
    const { undraftedSentence } = await load('figures.js');
    const tally = new Tally();
    const before = undraftedSentence(tally);
    tally.timings = { undrafted: { prompt: 1, last_token: 1, does_not_pay: 1200 } };
    return [before, undraftedSentence(tally)];
    """
    says = "1,201 rounds had no draft: 1,200 because drafting did not pay, 1 because one token was left."
    assert page.module(script) == ["", says]


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1, 2], [1, 2], None),
        ([1, 2], [1, 3], 'First difference at token 2: 2 "w2" with speculation off, 3 "w3" with speculation on.'),
        ([1, 2], [1], 'First difference at token 2: 2 "w2" with speculation off, the end with speculation on.'),
        ([], [], "Neither run generated a token, so there is nothing to compare."),
    ],
)
def test_comparison(page: Browser, a: list[int], b: list[int], says: str | None) -> None:
    script = """
    const { firstDifference } = await load('verdict.js');
    const result = (ids) => ({ ids, pieces: ids.map((id) => `w${id}`), finish: 'stop' });
    return firstDifference(result(args[0]), result(args[1]));
    """
    assert page.module(script, a, b) == says


def test_comparison_looks_at_the_end_as_well(page: Browser) -> None:
    script = """
    const { firstDifference } = await load('verdict.js');
    const result = (finish) => ({ ids: [1], pieces: ['w'], finish });
    return firstDifference(result('stop'), result('length'));
    """
    says = "finish reasons stop (with speculation off) and length (with speculation on)."
    assert page.module(script) == f"The same 1 token, but {says}"
