"""The race: order, medians, the rule for a clear difference, and other answers at the same time; a scripted server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from support.browser import Browser
from support.fake_chat import FakeChat


@pytest.fixture
def fake(browser: Browser) -> Iterator[FakeChat]:
    with FakeChat() as server:
        browser.open(server.url)
        browser.until(lambda: browser.text("#health-text") == "ready", "was ready")
        yield server


def race(browser: Browser, runs: int = 3) -> str:
    browser.find("#tab-race").click()
    browser.js(f"document.getElementById('race-runs').value = '{runs}'")
    browser.find("#race-start").click()
    browser.until(
        lambda: browser.js("return document.getElementById('verdict').dataset.state") not in ("idle", "running"),
        "came to a verdict",
    )
    return browser.text("#verdict")


def test_runs_alternate_and_are_reported(browser: Browser, fake: FakeChat) -> None:
    fake.times = [1, 1, 400, 210, 200, 410, 420, 190, 220, 405]
    verdict = race(browser, 4)
    assert verdict.startswith(
        "Speculation is 1.99 times as fast: median 205 ms with speculation and 408 ms without."
        "Clear, because every run of one setting was faster than every run of the other."
        "Same output, token for token, in all 8 runs: 8 tokens (seed "
    )
    assert [body["speculation"] for body in fake.seen[2:]] == ["off", "auto", "auto", "off"] * 2
    assert len({(body["seed"], body["max_completion_tokens"]) for body in fake.seen[2:]}) == 1
    tiles = browser.js("return [...document.querySelectorAll('.lane dd')].map((e) => e.textContent)")
    assert tiles[:2] == ["408 ms", "400 ms to 420 ms"] and tiles[4:6] == ["205 ms", "190 ms to 220 ms"]
    assert len(browser.all("#race-rows tr")) == 8 and len(browser.all(".plot .time")) == 8
    assert browser.log() == []


def test_overlapping_runs_are_no_clear_difference(browser: Browser, fake: FakeChat) -> None:
    fake.times = [1, 1, 400, 390, 300, 410, 420, 405]
    verdict = race(browser)
    assert verdict.startswith("No clear difference: the runs overlap (median 390 ms with speculation and 410 ms")
    assert "counts as clear only if every run of one setting was faster" in verdict
    assert browser.all(".lane.won") == []


@pytest.mark.parametrize("how", ["running", "waiting", "generated"])
def test_another_answer_is_noticed(browser: Browser, fake: FakeChat, how: str) -> None:
    fake.times = [1, 1, 400, 210, 200, 410, 420, 190]
    if how == "generated":  # short, between two looks: only the count of tokens shows it
        counter = itertools.count(0, 50)
        fake.next_generated = lambda: next(counter)
    else:
        fake.work[how] = 2
        fake.pause = 0.6  # two looks long
    verdict = race(browser)
    assert "Another answer was written during 6 of 6 runs" in verdict
    assert browser.js("return document.getElementById('verdict').dataset.state") == "disturbed"
    assert browser.text("#race-rows td:last-child") == "another answer ran"


def test_marks_can_be_switched_off(browser: Browser, fake: FakeChat) -> None:
    race(browser)
    line = "return getComputedStyle(document.querySelector('.lane .tok[data-origin=drafter]')).textDecorationLine"
    assert browser.js(line) == "underline"
    browser.find("#race-marks").click()
    assert browser.js(line) == "none" and not browser.find("#race-legend").is_displayed()


@pytest.mark.parametrize(
    ("off", "on", "says"),
    [
        ([4, 5, 6], [1, 2, 3], "Speculation is 2.50 times as fast"),
        ([1, 2, 3], [4, 5, 6], "Speculation is slower, 0.40 times as fast"),
        ([4, 5, 6], [1, 2, 4], "No clear difference"),
        ([4, 5], [1, 2], "Too few runs to tell"),
    ],
)
def test_the_rule(browser: Browser, fake: FakeChat, off: list[int], on: list[int], says: str) -> None:
    words = browser.module("return (await load('verdict.js')).compare(args[0], args[1]).words", off, on)
    assert words.startswith(says)


def test_medians(browser: Browser, fake: FakeChat) -> None:
    script = "const { median } = await load('verdict.js'); return args.slice(0, 4).map((one) => median(one))"
    assert browser.module(script, [], [3], [4, 1], [9, 1, 2]) == [None, 3, 2.5, 2]


def test_the_demo_at_real_size(browser: Browser, fake: FakeChat) -> None:
    browser.find("#tab-race").click()
    browser.find("#demo-start").click()
    browser.until(lambda: browser.text("#demo-error") == "the demo runs on a loopback address only", "was refused")
    lane = {"accepted": 3, "seconds": 1.0, "tokens_per_s": 12.0}
    lanes = [lane | {"name": "plain", "tokens": 9}, lane | {"name": "speculating", "tokens": 20}]
    begins = {"title": "E2B", "weights": "int4", "needed_bytes": 1.3e9, "free_bytes": None, "remarks": ["r"]}
    fake.demo = [
        {"type": "demo.start", **begins},
        {"type": "demo.work", "what": "making random weights", "done": 0, "total": None},
        {"type": "demo.passes", "text": "One pass: 80 ms."},
        {"type": "demo.lanes", "lanes": lanes},
        {"type": "demo.result", "text": "2.2 times as fast."},
    ]
    browser.find("#demo-start").click()
    browser.until(lambda: browser.text("#demo-state") == "Done.", "ended")
    assert not browser.find("#demo-error").is_displayed()
    lines = browser.js("return [...document.querySelectorAll('#demo-lines p')].map((e) => e.textContent)")
    start = "E2B in int4, random weights: takes 1.3 GB of memory."
    assert lines == [start, "r", "One pass: 80 ms.", "2.2 times as fast."]
    assert browser.js("return [...document.querySelectorAll('.demo-lane progress')].map((e) => e.value)") == [9, 20]
