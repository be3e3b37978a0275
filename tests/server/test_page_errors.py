"""What the page does when the server refuses, fails, breaks off or does not end: a scripted server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from support.browser import Browser
from support.fake_chat import FakeChat

SOON_S = 2.5  # two seconds, and what the test itself needs to see it
ENTER, ESCAPE = "\ue007", "\ue00c"


@pytest.fixture
def fake(browser: Browser) -> Iterator[FakeChat]:
    with FakeChat() as server:
        browser.open(server.url)
        browser.until(lambda: browser.text("#health-text") == "ready", "was ready")
        yield server


def ask(browser: Browser, text: str = "Hello") -> None:
    browser.find("#prompt").send_keys(text)
    browser.press(ENTER)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("full", "The server's queue is full. Try again in 7 s. Server message: 64 requests wait already"),
        ("failed", "Server error (500). Server message: something went wrong inside the server"),
        (
            "loading",
            "The server is not accepting requests. Try again in 5 s. Server message: the model is being loaded",
        ),
        ("nonsense", "The server sent an invalid response."),
    ],
)
def test_errors_are_shown_and_the_message_comes_back(browser: Browser, fake: FakeChat, mode: str, says: str) -> None:
    fake.mode = mode
    ask(browser)
    browser.until(lambda: browser.text("#chat-error"), "showed the error")
    assert browser.text("#chat-error") == says
    assert browser.find("#chat-error").get_attribute("role") == "alert"
    assert browser.find("#prompt").get_attribute("value") == "Hello" and browser.all(".message") == []
    fake.mode = "answer"
    browser.press(ENTER)
    browser.until(lambda: browser.all(".message.assistant .note"), "answered")
    assert not browser.find("#chat-error").is_displayed()
    assert [m["content"] for m in fake.seen[-1]["messages"]] == ["Hello"], "the failed turn was kept"


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("broken", "The connection was lost before the completion was finished."),
        ("error", "The server aborted the completion: the answer took longer than 600 s"),
    ],
)
def test_a_broken_answer_keeps_what_came(browser: Browser, fake: FakeChat, mode: str, says: str) -> None:
    fake.mode = mode
    ask(browser)
    browser.until(lambda: browser.text("#chat-error"), "showed the error")
    assert browser.text("#chat-error") == says
    assert browser.text(".message.assistant > .words") == "Once upon a time"
    assert browser.text(".message.assistant .note").startswith("Incomplete.")
    assert browser.find("#send").is_displayed() and not browser.find("#stop").is_displayed()


@pytest.mark.parametrize("how", ["escape", "button"])
def test_stopping_reaches_the_server(browser: Browser, fake: FakeChat, how: str) -> None:
    fake.mode = "endless"
    ask(browser)
    browser.until(lambda: "more more" in browser.text(".message.assistant > .words"), "streamed")
    assert browser.text("#announce") == "", "read aloud before it was finished"
    assert re.match(r"Writing: [\d,]+ tokens, [\d.,]+ a second", browser.text("#context"))
    if how == "escape":
        browser.press(ESCAPE)
    else:
        browser.find("#stop").click()
    browser.until(lambda: browser.all(".message.assistant .note"), "stopped")
    assert browser.text(".message.assistant .note").startswith("Stopped.")
    assert fake.gone.wait(30), "the server did not notice"
    assert not browser.find("#chat-error").is_displayed()
    fake.mode = "answer"
    browser.find("#prompt").click()
    ask(browser, "Go on")
    browser.until(lambda: len(browser.all(".message.assistant .note")) == 2, "answered")
    assert [m["role"] for m in fake.seen[-1]["messages"]] == ["user", "assistant", "user"]


def test_a_stopped_race_is_not_called_identical(browser: Browser, fake: FakeChat) -> None:
    fake.mode = "endless"
    browser.find("#tab-race").click()
    browser.find("#race-start").click()
    browser.until(lambda: browser.text("#verdict").startswith("Warming up"), "streamed")
    browser.until(lambda: fake.seen, "asked")
    browser.press(ESCAPE)
    browser.until(lambda: browser.text("#verdict") == "Stopped: not compared.", "stopped")
    assert fake.gone.wait(30)
    assert len(fake.seen) == 1, "the second lane started all the same"


def test_a_race_that_differs_says_so(browser: Browser, fake: FakeChat) -> None:
    fake.mode = "differ"
    browser.find("#tab-race").click()
    browser.find("#race-start").click()
    browser.until(lambda: browser.text("#verdict").startswith(("Spec", "No", "Output")), "came to a verdict")
    verdict = browser.text("#verdict")
    assert verdict.startswith("Output differs")
    assert 'First difference at token 4: 13 " time" with speculation off, 99 " moon" with speculation on.' in verdict
    off, on = fake.seen[2:4]
    assert off.pop("speculation") == "off" and on.pop("speculation") == "auto"
    assert off == on and off["trace"] and off["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("mode", ["failed", "broken"])
def test_a_race_that_fails_is_not_compared(browser: Browser, fake: FakeChat, mode: str) -> None:
    fake.mode = mode
    browser.find("#tab-race").click()
    browser.find("#race-start").click()
    browser.until(lambda: browser.text("#race-error"), "showed the error")
    assert browser.text("#verdict") == "Not compared."
    assert browser.find("#race-start").is_displayed()


def test_every_origin_and_reasoning(browser: Browser, fake: FakeChat) -> None:
    fake.mode = "thinking"
    browser.find("#marks").click()
    browser.find("#prompt").click()
    ask(browser)
    browser.until(lambda: browser.all(".message.assistant .note"), "answered")
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => [e.textContent, e.dataset.origin])"
    assert browser.js(script, ".message.assistant > .words .tok") == [
        ["Once", "target"],
        ["upon", "drafter"],
        ["a", "drafter"],
        ["time", "target"],
        ["the", "copied"],
        ["end", "copied"],
        [".", "forced"],
    ]
    assert browser.text(".message.assistant > .words") == "Once upon a time the end."
    reasoning = browser.find(".reasoning")
    assert reasoning.get_attribute("open") is None, "reasoning is collapsed"
    assert browser.text(".reasoning summary") == "Reasoning, 1 word"
    browser.find(".reasoning summary").click()
    browser.until(lambda: browser.text(".reasoning .words") == "Hm.", "showed the reasoning")
    assert "Hm." not in str(browser.text("#announce"))


def test_health_is_shown_in_words(browser: Browser, fake: FakeChat) -> None:
    fake.ready = False
    browser.driver.refresh()
    browser.until(lambda: browser.text("#health-text") == "loading the model", "said that it loads")
    fake.ready = True
    browser.until(lambda: browser.text("#health-text") == "ready", "became ready by itself")


def test_a_server_that_is_gone(browser: Browser, fake: FakeChat) -> None:
    fake.__exit__()
    began = time.monotonic()
    browser.until(lambda: browser.find("#gone").is_displayed(), "noticed")
    assert time.monotonic() - began < SOON_S
    assert browser.text("#gone").startswith("The server has been unreachable since ")
    assert browser.text("#health-text") == "unreachable"
    ask(browser)
    browser.until(lambda: browser.text("#chat-error").startswith("Cannot reach the server."), "showed the error")
    assert browser.find("#prompt").get_attribute("value") == "Hello"


def test_silence_and_return_are_noticed(browser: Browser, fake: FakeChat) -> None:
    fake.deaf.set()
    began = time.monotonic()
    browser.until(lambda: browser.find("#gone").is_displayed(), "noticed")
    assert time.monotonic() - began < SOON_S
    assert browser.text("#gone").startswith("The server has not answered since ")
    fake.card["id"] = "another"
    fake.deaf.clear()
    began = time.monotonic()
    browser.until(lambda: browser.text("#gone") == "The server is back.", "noticed its return")
    assert time.monotonic() - began < SOON_S
    browser.until(lambda: browser.text("#model") == "another", "asked which model it serves now")
    browser.until(lambda: not browser.find("#gone").is_displayed(), "went on")


def test_a_busy_server_that_still_writes_is_not_called_gone(browser: Browser, fake: FakeChat) -> None:
    fake.mode = "endless"
    ask(browser)
    browser.until(lambda: "more" in browser.text(".message.assistant > .words"), "streamed")
    fake.deaf.set()
    time.sleep(SOON_S)
    assert not browser.find("#gone").is_displayed()
    browser.press(ESCAPE)
    browser.until(lambda: browser.find("#gone").is_displayed(), "noticed the silence afterwards")
    fake.deaf.clear()


def test_the_prompt_is_read_visibly(browser: Browser, fake: FakeChat) -> None:
    fake.mode = "prompt"
    fake.work["prompt"] = {"done": None, "of": 1200}
    ask(browser)
    waits = "Waiting: another answer is being written. The prompt has 1,200 tokens."
    browser.until(lambda: browser.all(".progress") and browser.text(".progress span") == waits, "said that it waits")
    fake.work["prompt"] = {"done": 512, "of": 1200}
    reads = "Reading the prompt: 512 of 1,200 tokens"
    browser.until(lambda: browser.text(".progress span") == reads, "showed the progress")
    bar = browser.find(".progress progress")
    assert (bar.get_attribute("value"), bar.get_attribute("max")) == ("512", "1200") and bar.is_displayed()
    fake.go.set()
    browser.until(lambda: browser.all(".message.assistant .note"), "answered")
    assert browser.all(".progress") == []


def test_markup_in_an_answer_stays_text(browser: Browser, fake: FakeChat) -> None:
    bad = "<img src=x onerror=alert(1)> <script>alert(1)</script>\n\n<svg onload=alert(1)>\n\n[a](javascript:alert(1))"
    fake.mode, fake.text = "text", bad + " ![b](https://example.org/b.png)"
    ask(browser, "<img src=x onerror=alert(1)>")
    browser.until(lambda: browser.all(".message.assistant .note"), "answered")
    assert browser.text(".message.user .words") == "<img src=x onerror=alert(1)>"
    assert browser.all(".message :is(img, script, svg:not(.chart))") == []
    assert browser.js("return [...document.querySelectorAll('.message a')].map((e) => [e.protocol, e.rel])") == [
        ["https:", "noopener noreferrer nofollow"]
    ]
    assert "<script>alert(1)</script>" in browser.text(".message.assistant > .words")
    assert browser.log() == []
