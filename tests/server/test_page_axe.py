"""axe-core finds nothing on the page, at three widths, light and dark, in every state that a user meets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.axe import violations
from support.browser import Browser
from support.fake_chat import FakeChat

ENTER, ESCAPE = "\ue007", "\ue00c"
SHOTS = os.environ.get("GEMINATE_PAGE_SHOTS")  # a folder: the states are saved there as pictures, to be looked at
ANSWER = """## Sorting

Both are **stable**, see [the manual](https://docs.python.org/3/howto/sorting.html):

1. `sorted(values)` returns a list
   - a new one

```python
def by_length(words: list[str]) -> list[str]:
    return sorted(words, key=len, reverse=True)  # equal lengths keep their order, because the sort is stable
```

| function | in place |
|---|--:|
| `sort` | yes |

> Timsort

- [x] done
"""


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeChat]:
    with FakeChat() as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_no_violations(browser: Browser, fake: FakeChat, width: int, scheme: str) -> None:
    found = {}

    def check(state: str) -> None:
        if wrong := violations(browser):
            found[state] = wrong
        if SHOTS:
            Path(SHOTS).mkdir(exist_ok=True)
            browser.driver.save_screenshot(f"{SHOTS}/{state}-{scheme}-{width}.png")
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth"), f"{state} is too wide"

    fake.mode, fake.text, fake.thought = "text", ANSWER, "The user wants to sort."
    browser.open(fake.url, width=width, height=800, scheme=scheme)
    browser.until(lambda: browser.text("#health-text") == "ready", "was ready")
    check("empty")
    browser.find("#prompt").send_keys("How do I sort?")
    browser.press(ENTER)
    browser.until(lambda: browser.all(".note"), "answered")
    browser.js("document.querySelectorAll('.reasoning, .figures').forEach((e) => { e.open = true; })")
    browser.js("scrollTo(0, 0)")
    check("chat")
    browser.find("#marks").click()
    check("marks")
    for name in ("settings", "card", "chats"):
        browser.find(f"#open-{name}").click()
        if name == "settings":
            browser.find("#schema").send_keys("{")
        check(name)
        browser.find(f"#{name} .close").click()
    browser.js("document.getElementById('settings-form').reset()")
    browser.js("document.getElementById('schema').dispatchEvent(new Event('change', { bubbles: true }))")
    browser.js("document.querySelector('[aria-label=\"Edit your message\"]').click()")
    check("editing")
    browser.press(ESCAPE)
    fake.mode = "failed"
    browser.find("#prompt").send_keys("more")
    browser.press(ENTER)
    browser.until(lambda: browser.find("#chat-error").is_displayed(), "showed the error")
    check("error")
    fake.mode, fake.times = "answer", [40, 40, *[41, 20, 21, 43, 42, 22, 20, 45]]
    browser.find("#tab-race").click()
    browser.find("#race-start").click()
    browser.until(lambda: browser.text("#verdict").startswith(("Spec", "No ")), "came to a verdict")
    browser.js("document.getElementById('race-table').open = true")
    check("race")
    fake.deaf.set()
    browser.until(lambda: browser.find("#gone").is_displayed(), "noticed that the server is gone")
    check("gone")
    fake.deaf.clear()
    assert found == {}, json.dumps(found, indent=1)
