"""The chat as someone uses it: Markdown, copying, retrying, editing, history, export, settings; a scripted server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import Browser
from support.fake_chat import FakeChat

ENTER, ESCAPE = "\ue007", "\ue00c"
MARKDOWN = "# Title\n\nSome **bold** text.\n\n```python\nprint('hi')\n```\n\n- one\n- two\n"


@pytest.fixture
def fake(browser: Browser) -> Iterator[FakeChat]:
    with FakeChat() as server:
        browser.open(server.url)
        ready(browser)
        yield server


def ready(browser: Browser) -> None:
    browser.until(lambda: browser.text("#health-text") == "ready", "was ready")


def ask(browser: Browser, text: str = "Hello") -> None:
    """Send a message and wait for its answer."""
    before = len(browser.all(".message.assistant .note"))
    browser.find("#prompt").send_keys(text)
    browser.press(ENTER)
    answered(browser, before + 1)


def answered(browser: Browser, count: int) -> None:
    browser.until(
        lambda: len(browser.all(".message.assistant .note")) == count and not browser.find("#stop").is_displayed(),
        "finished an answer",
    )


def said(browser: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('.message > .words')].map((e) => e.textContent)"
    return list(browser.js(script))


def click(browser: Browser, selector: str) -> None:
    browser.js("document.querySelector(arguments[0]).click()", selector)


def sent(fake: FakeChat) -> list[str]:
    return [message["content"] for message in fake.seen[-1]["messages"]]


def test_markdown_and_token_marks(browser: Browser, fake: FakeChat) -> None:
    fake.mode, fake.text = "text", MARKDOWN
    ask(browser)
    assert browser.text(".prose h4") == "Title" and browser.text(".prose strong") == "bold"
    assert browser.text(".prose pre") == "print('hi')" and len(browser.all(".prose li")) == 2
    assert browser.all(".tok:not(.legend .tok)") == [] and not browser.find("#legend").is_displayed()
    browser.find("#marks").click()
    assert browser.find("#legend").is_displayed() and browser.all(".prose") == []
    assert browser.text(".message.assistant > .words") == MARKDOWN
    assert {"target", "drafter"} == set(
        browser.js("return [...document.querySelectorAll('.message .tok')].map((e) => e.dataset.origin)")
    )
    browser.find("#marks").click()
    assert browser.text(".prose h4") == "Title"
    assert browser.log() == []


def test_copying(browser: Browser, fake: FakeChat) -> None:
    permissions = {"origin": fake.url.rstrip("/"), "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    fake.mode, fake.text = "text", MARKDOWN
    ask(browser)
    for selector, text in ((".code button", "print('hi')"), (".message.assistant > .actions button", MARKDOWN)):
        click(browser, selector)
        browser.until(lambda s=selector: browser.text(s) == "Copied", "copied")
        assert browser.module("return await navigator.clipboard.readText()") == text


def test_retry_replaces_the_answer(browser: Browser, fake: FakeChat) -> None:
    fake.mode, fake.text = "text", "first"
    ask(browser, "one")
    ask(browser, "two")
    fake.text = "second"
    click(browser, ".message.assistant:last-child [aria-label^='Retry']")
    browser.until(lambda: said(browser)[-1] == "second", "answered again")
    answered(browser, 2)
    assert sent(fake) == ["one", "first", "two"] and said(browser) == ["one", "first", "two", "second"]
    fake.mode = "failed"
    click(browser, ".message.assistant:last-child [aria-label^='Retry']")
    browser.until(lambda: browser.text("#chat-error"), "showed the error")
    assert said(browser) == ["one", "first", "two", "second"], "a failed retry loses the answer"


def test_editing_a_message(browser: Browser, fake: FakeChat) -> None:
    fake.mode, fake.text = "text", "first"
    ask(browser, "one")
    ask(browser, "two")
    click(browser, ".message.user [aria-label='Edit your message']")
    assert browser.js("return document.activeElement.value") == "one"
    browser.press(ESCAPE)
    assert browser.all(".edit") == [] and browser.focus() == "BUTTON"
    click(browser, ".message.user [aria-label='Edit your message']")
    browser.press(" more")
    browser.press(ENTER)
    browser.until(lambda: said(browser) == ["one more", "first"], "answered the changed message")
    answered(browser, 1)
    assert sent(fake) == ["one more"]
    ask(browser, "three")
    assert sent(fake) == ["one more", "first", "three"]


def test_the_conversation_survives_a_reload(browser: Browser, fake: FakeChat) -> None:
    fake.mode, fake.text, fake.thought = "text", MARKDOWN, "Let me see."
    ask(browser, "one")
    note = browser.text(".note")
    browser.driver.refresh()
    ready(browser)
    assert said(browser) == ["one", browser.text(".message > .prose")] and browser.text(".prose h4") == "Title"
    assert browser.text(".note") == note and browser.text(".reasoning summary") == "Reasoning, 3 words"
    browser.until(lambda: browser.text("#context") == "Context: 17 of 2,048 tokens (1 %)", "knew the context")
    browser.find("#marks").click()
    assert len(browser.all(".message .tok")) == len(range(0, len(MARKDOWN), fake.size)), "the marks are lost"
    ask(browser, "two")
    assert sent(fake) == ["one", MARKDOWN, "two"]


def test_an_answer_that_was_cut_by_a_reload_is_kept(browser: Browser, fake: FakeChat) -> None:
    fake.mode = "endless"
    browser.find("#prompt").send_keys("go")
    browser.press(ENTER)
    browser.until(lambda: "more more" in browser.text(".message.assistant > .words"), "streamed")
    browser.driver.refresh()
    ready(browser)
    assert said(browser)[0] == "go" and "more more" in said(browser)[1]
    assert browser.text(".note").startswith("Incomplete")


def test_history_is_listed_opened_and_cleared(browser: Browser, fake: FakeChat) -> None:
    ask(browser, "first conversation")
    browser.find("#fresh").click()
    assert said(browser) == [] and browser.focus() == "prompt"
    ask(browser, "second conversation")
    browser.find("#open-chats").click()
    titles = browser.js("return [...document.querySelectorAll('.entry .title')].map((e) => e.textContent)")
    assert titles == ["second conversation", "first conversation"]
    browser.all(".entry")[1].click()
    assert said(browser)[0] == "first conversation" and not browser.find("#chats").is_displayed()
    browser.find("#open-chats").click()
    click(browser, "[aria-label='Delete: second conversation']")
    assert len(browser.all(".entry")) == 1
    browser.find("#delete-all").click()
    assert len(browser.all(".entry")) == 1, "deleted without being asked twice"
    browser.find("#delete-all").click()
    assert browser.all(".entry") == [] and said(browser) == []
    assert browser.js("return Object.keys(localStorage).filter((name) => name.includes('chat'))") == []


def test_full_and_broken_storage(browser: Browser, fake: FakeChat) -> None:
    ask(browser, "old")
    full = """
    const real = Storage.prototype.setItem;
    let left = arguments[0];
    Storage.prototype.setItem = function (name, value) {
      if (name.startsWith('geminate-chat') && left-- > 0) throw new DOMException('full', 'QuotaExceededError');
      return real.call(this, name, value);
    };
    """
    browser.find("#fresh").click()
    browser.js(full, 1)
    ask(browser, "new")
    browser.find("#open-chats").click()
    assert [entry.text.split("\n")[0] for entry in browser.all(".entry")] == ["new"], "the oldest gives way"
    browser.find("#chats .close").click()
    browser.js(full, 1000)
    ask(browser, "unsaved")
    assert browser.text("#storage").startswith("This conversation is not saved")
    browser.driver.refresh()
    browser.js("localStorage.setItem('geminate-chat:x', '{not json'); localStorage.setItem('geminate-settings', '[1')")
    browser.js("sessionStorage.setItem('geminate-current', 'x')")
    browser.driver.refresh()
    ready(browser)
    assert said(browser) == []
    ask(browser, "goes on")


def test_no_storage_at_all(browser: Browser, fake: FakeChat) -> None:
    script = """
    for (const name of ['localStorage', 'sessionStorage']) {
      Object.defineProperty(window, name, { get() { throw new DOMException('blocked', 'SecurityError'); } });
    }
    """
    made = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        browser.driver.refresh()
        ready(browser)
        ask(browser)
        assert browser.text("#storage").startswith("This conversation is not saved")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", made)


def test_export(browser: Browser, fake: FakeChat, tmp_path: Path) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    fake.mode, fake.text, fake.thought = "text", MARKDOWN, "Hm."
    ask(browser, "Say: hi / ho?")
    browser.find("#open-chats").click()
    browser.find("#export-markdown").click()
    browser.find("#export-json").click()
    names = {"say-hi-ho.md", "say-hi-ho.json"}
    browser.until(lambda: {path.name for path in tmp_path.iterdir()} == names, "downloaded both")
    text = (tmp_path / "say-hi-ho.md").read_text()
    assert text == f"# Say: hi / ho?\n\n## You\n\nSay: hi / ho?\n\n## fake\n\n{MARKDOWN}"
    made = json.loads((tmp_path / "say-hi-ho.json").read_text())
    assert made["model"] == "fake" and made["messages"] == [
        {"role": "user", "content": "Say: hi / ho?"},
        {"role": "assistant", "content": MARKDOWN, "reasoning_content": "Hm."},
    ]


def fill(browser: Browser, **values: str) -> None:
    for name, value in values.items():
        field = browser.find("#" + name.replace("_", "-"))
        field.clear()
        field.send_keys(value)


def test_sampling_and_schema(browser: Browser, fake: FakeChat) -> None:
    browser.find("#open-settings").click()
    shown = {name: browser.find(f"#{name}").get_attribute("placeholder") for name in ("temperature", "top-p", "top-k")}
    assert shown == {"temperature": "model's: 1", "top-p": "model's: 0.95", "top-k": "model's: 64"}
    assert browser.find("#min-p").get_attribute("placeholder") == "model's: off"
    browser.press(ESCAPE)
    ask(browser)
    own: dict[str, Any] = {"model": "fake", "speculation": "auto", "stream": True, "trace": True}
    assert fake.seen[-1] == own | {
        "messages": [{"role": "user", "content": "Hello"}],
        "stream_options": {"include_usage": True},
    }
    browser.find("#open-settings").click()
    fill(browser, temperature="0.5", top_p="0.9", top_k="40", min_p="0.05", schema='{"type": "objct"}')
    problem = '"type" is "objct", but must be one of: object, array, string, number, integer, boolean, null.'
    assert browser.text("#schema-problem") == problem and browser.find("#schema-problem").is_displayed()
    assert browser.find("#schema").get_attribute("aria-invalid") == "true"
    browser.press(ESCAPE)
    browser.find("#prompt").send_keys("again")
    browser.press(ENTER)
    browser.until(lambda: browser.focus() == "schema", "showed the field that is wrong")
    fill(browser, schema='{"type": "object"}')
    assert not browser.find("#schema-problem").is_displayed()
    browser.press(ESCAPE)
    fake.mode, fake.text = "text", '{"a": "*b*"}'
    browser.find("#prompt").click()
    browser.press(ENTER)
    answered(browser, 2)
    body = fake.seen[-1]
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.5, 0.9, 40, 0.05)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert browser.text(".json pre") == fake.text
    browser.driver.refresh()
    ready(browser)
    assert browser.find("#top-k").get_attribute("value") == "40", "the settings are lost"
    browser.find("#open-settings").click()
    browser.find("#settings-reset").click()
    assert browser.find("#top-k").get_attribute("value") == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ""),
        ("{", "This is not valid JSON: "),
        ("[1]", "A schema is a JSON object"),
        ('{"properties": []}', '"properties" must be an object'),
        ('{"properties": {"a": {}}, "required": ["b"]}', '"required" names "b"'),
        ('{"type": ["string", "null"]}', ""),
    ],
)
def test_schema_problems(browser: Browser, fake: FakeChat, text: str, says: str) -> None:
    found = browser.module("return (await load('settings.js')).schemaProblem(args[0])", text)
    assert found.startswith(says) and bool(found) == bool(says)


def test_the_card_says_what_is_served(browser: Browser, fake: FakeChat) -> None:
    browser.find("#open-card").click()
    names = browser.js("return [...document.querySelectorAll('#card dt')].map((e) => e.textContent)")
    words = browser.js("return [...document.querySelectorAll('#card dd')].map((e) => e.textContent)")
    assert dict(zip(names, words, strict=True)) == {
        "Model": "fake",
        "Size": "2.3 billion parameters, 1.3 GB as int4",
        "Drafter": "none: only text that repeats the prompt or the answer is drafted",
        "Context": "2,048 tokens",
        "Memory": "1.5 GB resident; 0 bytes of 400 MB for conversations in use",
        "Threads": "2 (avx2)",
        "Own sampling": "temperature 1, top-p 0.95, top-k 64",
        "Version": "Geminate 0",
    }


def test_a_nearly_full_context_is_said(browser: Browser, fake: FakeChat) -> None:
    fake.card["context"] = 19
    browser.driver.refresh()
    ready(browser)
    ask(browser)
    assert browser.text("#context").startswith("Context: 17 of 19 tokens (89 %). Almost full")


def test_following_and_scrolling_away(browser: Browser, fake: FakeChat) -> None:
    browser.size(390, 640)
    fake.mode = "endless"
    browser.find("#prompt").send_keys("go")
    browser.press(ENTER)
    page = "return document.documentElement.scrollHeight - innerHeight"
    browser.until(lambda: browser.js(page) > 300, "grew")
    below = "return document.documentElement.scrollHeight - scrollY - innerHeight"
    browser.until(lambda: browser.js(below) < 40, "followed")
    box = browser.js("const b = document.getElementById('prompt').getBoundingClientRect(); return [b.top, b.bottom]")
    assert box[0] > 0 and box[1] <= 640, "the composer is out of reach"

    def away() -> bool:  # a single jump can meet a painting that follows the end
        browser.js("scrollTo(0, 0)")
        return browser.find("#to-end").is_displayed()

    browser.until(away, "offered the way back")
    time.sleep(0.3)
    assert browser.js("return scrollY") < 5, "jumped away from what is read"
    browser.find("#to-end").click()
    browser.until(lambda: browser.js(below) < 60, "went to the end")
    browser.press(ESCAPE)
    browser.until(lambda: browser.all(".note"), "stopped")


def test_one_scrollbar(browser: Browser, fake: FakeChat) -> None:
    fake.mode, fake.text = "text", "word " * 3000
    ask(browser)
    script = """return [...document.querySelectorAll('body, body *')].filter((e) => e.scrollHeight > e.clientHeight + 1
      && ['auto', 'scroll'].includes(getComputedStyle(e).overflowY) && e.checkVisibility())
      .map((e) => e.id || e.className)"""
    assert browser.js(script) == []
    assert browser.js("return document.documentElement.scrollHeight > innerHeight")


def test_a_very_long_answer(browser: Browser, fake: FakeChat) -> None:
    """10,000 tokens: the page answers a click while they arrive, and shows them all."""
    fake.mode, fake.size = "text", 5
    fake.text = "".join(f"Line {i} of a long list of things\n" + ("\n" if i % 9 == 0 else "") for i in range(1400))
    browser.find("#prompt").send_keys("go")
    browser.press(ENTER)
    size = "return document.querySelector('.message.assistant > .words')?.children.length ?? 0"
    browser.until(lambda: browser.js(size) > 40, "streamed")
    began = time.monotonic()
    browser.find("#open-settings").click()
    browser.press(ESCAPE)
    assert time.monotonic() - began < 3
    answered(browser, 1)
    assert "Line 1399" in browser.text(".message.assistant > .words")
