"""The page in headless Chromium against the real server with the embedded pair."""

from __future__ import annotations

import pytest

from support.accessibility import contrast, faint_edges, faint_texts, nameless, structure
from support.browser import Browser
from support.serving import Served

PROMPT = "Once upon a time there was a small robot."
KEY = "page-test-key-0123"
ENTER = "\ue007"


def open_page(browser: Browser, served: Served, **look: object) -> None:
    browser.open(served.url, **look)
    browser.until(lambda: browser.text("#health-text") == "ready", "was ready")


def setting(browser: Browser, **values: object) -> None:
    """Set fields as a person's change would."""
    script = """
    const field = document.getElementById(arguments[0]);
    if (field.type === 'checkbox') field.checked = arguments[1]; else field.value = arguments[1];
    field.dispatchEvent(new Event('change', { bubbles: true }));
    """
    for name, value in values.items():
        browser.js(script, name.replace("_", "-"), value)


def send(browser: Browser, text: str) -> None:
    before = len(browser.all(".message.assistant .note"))
    field = browser.find("#prompt")
    field.send_keys(text)
    browser.press(ENTER)
    browser.until(lambda: len(browser.all(".message.assistant .note")) > before, "finished an answer")


def race(browser: Browser) -> str:
    browser.find("#tab-race").click()
    browser.find("#race-start").click()
    browser.until(
        lambda: browser.text("#verdict").startswith(("Same", "Output", "Not", "Stopped")), "came to a verdict"
    )
    return browser.text("#verdict")


def test_chat_streams_and_marks_every_token(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    assert browser.text("#model") == "geminate-embedded" and "int8" in browser.text("#pair")
    setting(browser, seed=5, max_tokens=96, speculation="fixed", draft_length=4)  # a fixed length repeats, auto may not
    send(browser, PROMPT)
    words = browser.text(".message.assistant > .words")
    with served.client() as client:
        body = {"model": "geminate-embedded", "seed": 5, "max_completion_tokens": 96, "temperature": 0.7}
        body |= {"messages": [{"role": "user", "content": PROMPT}], "trace": True, "speculation": 4}
        said = client.post("/v1/chat/completions", json=body).json()
    assert words == said["choices"][0]["message"]["content"]
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.dataset.origin ?? null)"
    origins = browser.js(script, ".message.assistant .tok")
    assert None not in origins, "a piece of text without an origin"
    traced = [token for piece in said["geminate"]["rounds"] for token in piece["tokens"]]
    assert len(origins) <= len(traced) <= len(origins) + 1  # the end token has no text
    assert "target" in origins and "drafter" in origins
    assert browser.text("#fig-tokens") == str(len(traced))
    assert browser.text("#fig-length") == f"{said['timings']['acceptance_length']:.2f}"
    assert len(browser.all("#chart-positions .accepted")) == len(said["timings"]["drafted_per_position"])
    assert "1:" in browser.text("#cap-positions") and "drafted per round" in browser.text("#cap-lengths")
    assert words in browser.text("#announce"), "the finished answer is not read aloud"
    assert browser.log() == []


def test_origins_differ_by_more_than_colour(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    script = """return [...document.querySelectorAll('.legend .tok')].map((e) => {
      const style = getComputedStyle(e); return style.textDecorationLine + ' ' + style.textDecorationStyle; })"""
    styles = browser.js(script)
    assert len(set(styles)) == 4, styles


@pytest.mark.parametrize("order", ["sequence", "together"])
def test_race_ends_identical(browser: Browser, served: Served, order: str) -> None:
    open_page(browser, served)
    setting(browser, temperature=1.0, max_tokens=64)
    browser.find("#tab-race").click()
    browser.find(f"input[value={order}]").click()
    verdict = race(browser)
    assert verdict.startswith("Same output, token for token"), verdict
    assert ("times as fast" in verdict) == (order == "sequence") and ("shared the machine" in verdict) == (
        order != "sequence"
    )
    texts = browser.js("return [...document.querySelectorAll('.lane > .words')].map((e) => e.textContent)")
    assert len(texts) == 2 and texts[0] == texts[1] != ""
    tiles = browser.js("return [...document.querySelectorAll('.lane dd')].map((e) => e.textContent)")
    assert tiles[2] == "1.00" and tiles[3] == tiles[7] and "–" not in tiles
    assert browser.all(".lane:first-child [data-origin=drafter]") == []
    assert browser.log() == []


def test_settings_reach_the_server(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    script = """
    const { readSettings, requestBody } = await load('settings.js');
    return requestBody(readSettings(), [{ role: 'user', content: 'x' }], 'm');
    """
    assert browser.module(script) == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 0.7,
        "max_completion_tokens": 256,
        "speculation": "auto",
    }
    setting(browser, speculation="fixed", draft_length=3, seed=0, thinking=True, system=" Be brief. ", temperature=0)
    setting(browser, max_tokens=8)
    made = browser.module(script)
    assert made["speculation"] == 3 and made["seed"] == 0 and made["temperature"] == 0
    assert made["chat_template_kwargs"] == {"enable_thinking": True}
    assert made["messages"][0] == {"role": "system", "content": "Be brief."}
    send(browser, PROMPT)  # the server takes this body, every field of it
    assert "Token limit reached" in browser.text(".message.assistant .note")
    setting(browser, max_tokens="")
    browser.find("#prompt").send_keys("again")
    browser.press(ENTER)
    assert browser.focus() == "max-tokens" and browser.find("#prompt").get_attribute("value") == "again"


def test_conversation_goes_on_and_starts_anew(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    setting(browser, seed=1, max_tokens=16)
    send(browser, PROMPT)
    send(browser, "What did it see?")
    assert len(browser.all(".message")) == 4
    with served.client() as client:
        turns = browser.js("return [...document.querySelectorAll('.message > .words')].map((e) => e.textContent)")
        roles = ["user", "assistant", "user"]
        messages = [{"role": role, "content": text} for role, text in zip(roles, turns[:3], strict=True)]
        body = {"model": "geminate-embedded", "messages": messages, "seed": 1, "temperature": 0.7}
        said = client.post("/v1/chat/completions", json=body | {"max_completion_tokens": 16}).json()
    assert said["choices"][0]["message"]["content"] == turns[3], "the earlier turns were not sent as they stand"
    browser.find("#fresh").click()
    assert browser.all(".message") == [] and browser.focus() == "prompt"


def test_keyboard_alone(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    tab, right = "\ue004", "\ue014"
    order = ["skip", "theme", "tab-chat", "log", "prompt", "fresh", "send"]
    visible = """const s = getComputedStyle(document.activeElement);
      return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2"""
    for name in order:
        browser.press(tab)
        assert browser.focus() == name and browser.js(visible), (name, browser.focus())
    browser.js("document.activeElement.blur()")
    browser.find("#skip").send_keys(ENTER)
    assert browser.focus() == "prompt"
    browser.press("one")
    browser.press(ENTER, shift=True)
    browser.press("two")
    assert browser.find("#prompt").get_attribute("value") == "one\ntwo" and browser.all(".message") == []
    browser.press(ENTER)
    browser.until(lambda: browser.all(".message.assistant .note"), "answered")
    assert browser.focus() == "prompt", "focus left the message box"
    browser.find("#tab-chat").send_keys(right)
    assert browser.focus() == "tab-race" and browser.find("#race-prompt").is_displayed()
    browser.press(tab)
    assert browser.focus() == "race-prompt"
    browser.press(ENTER)
    browser.until(lambda: browser.text("#verdict").startswith("Same output, token for token"), "raced")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_structure_and_contrast(browser: Browser, served: Served, scheme: str) -> None:
    open_page(browser, served, scheme=scheme)
    dark = contrast(
        browser.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"), [0, 0, 0]
    )
    assert (dark < 2) == (scheme == "dark")
    setting(browser, max_tokens=48)
    send(browser, PROMPT)
    for _ in range(2):
        assert faint_texts(browser) == []
        assert faint_edges(browser) == []
        assert nameless(browser) == []
        assert structure(browser) == []
        assert race(browser).startswith("Same output, token for token")


def test_theme_button_overrules_the_system_and_stays(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.js(paper)
    browser.find("#theme").click()
    browser.find("#theme").click()
    dark = browser.js(paper)
    assert dark != light and browser.text("#theme") == "Theme: dark"
    browser.driver.refresh()
    assert browser.js(paper) == dark
    browser.find("#theme").click()
    assert browser.js(paper) == light


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_fits_the_width(browser: Browser, served: Served, width: int) -> None:
    open_page(browser, served, width=width, height=740)
    setting(browser, max_tokens=32)
    send(browser, PROMPT + " " + "x" * 200)
    assert race(browser).startswith("Same output, token for token")
    for name in ("race", "chat"):
        browser.find(f"#tab-{name}").click()
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth")


def test_motion_is_reduced_on_request(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    moves = """
    const probe = document.createElement('article');
    probe.className = 'busy';
    probe.innerHTML = '<div class="words"></div>';
    document.body.append(probe);
    const name = getComputedStyle(probe.firstChild, '::after').animationName;
    probe.remove();
    return name;
    """
    assert browser.js(moves) == "blink"
    browser.scheme("light", motion="reduce")
    assert browser.js(moves) == "none"


def test_asks_no_other_host_and_keeps_its_own_policy(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    send(browser, PROMPT)
    urls = browser.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(urls) > 10 and all(url.startswith(served.url + "/") for url in urls), urls
    refused = browser.module("""
    const seen = new Promise((done) => {
      document.addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective));
    });
    const script = document.createElement('script');
    script.textContent = 'window.ran = true';
    document.body.append(script);
    return [await seen, window.ran ?? null];
    """)
    assert refused == ["script-src-elem", None]


def test_asks_for_a_key_and_keeps_it_in_memory(browser: Browser, packed_cache: object) -> None:
    with Served(env={"GEMINATE_API_KEYS": KEY}, key=KEY) as served:
        served.ready()
        browser.open(served.url)
        browser.until(lambda: browser.find("#key-form").is_displayed(), "asked for a key")
        assert browser.text("#health-text") == "API key required"
        browser.find("#prompt").send_keys("Hello")
        browser.press(ENTER)
        browser.until(lambda: "API key" in browser.text("#chat-error"), "said what is missing")
        assert browser.find("#prompt").get_attribute("value") == "Hello", "the message is lost"
        browser.find("#key").send_keys("wrong")
        browser.press(ENTER)
        browser.until(lambda: "rejected" in browser.text("#key-why"), "refused a wrong key")
        browser.find("#key").clear()
        browser.find("#key").send_keys(KEY)
        browser.press(ENTER)
        browser.until(lambda: browser.text("#health-text") == "ready", "took the key")
        assert not browser.find("#key-form").is_displayed() and browser.focus() == "prompt"
        browser.press(ENTER)
        browser.until(lambda: browser.all(".message.assistant .note"), "answered")
        kept = browser.js(
            "return JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])"
        )
        assert KEY not in kept
        assert not browser.find("#chat-error").is_displayed()
        browser.driver.refresh()
        browser.until(lambda: browser.find("#key-form").is_displayed(), "forgot the key on reload")
