"""The page in headless Chromium against the real server with the embedded pair."""

from __future__ import annotations

import json

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
    browser.js("document.getElementById('race-runs').value = '3'")
    browser.find("#race-start").click()
    browser.until(
        lambda: browser.js("return document.getElementById('verdict').dataset.state") not in ("idle", "running"),
        "came to a verdict",
    )
    return browser.text("#verdict")


def test_chat_streams_and_marks_every_token(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    assert browser.text("#model") == "geminate-embedded"
    browser.find("#marks").click()
    setting(browser, seed=5, max_tokens=96, speculation="fixed", draft_length=4)  # a fixed length repeats, auto may not
    send(browser, PROMPT)
    words = browser.text(".message.assistant > .words")
    with served.client() as client:
        body = {"model": "geminate-embedded", "seed": 5, "max_completion_tokens": 96}
        body |= {"messages": [{"role": "user", "content": PROMPT}], "trace": True, "speculation": 4}
        said = client.post("/v1/chat/completions", json=body).json()
    assert words == said["choices"][0]["message"]["content"], "not the model's own sampling"
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.dataset.origin ?? null)"
    origins = browser.js(script, ".message.assistant .tok")
    assert None not in origins, "a piece of text without an origin"
    traced = [token for piece in said["geminate"]["rounds"] for token in piece["tokens"]]
    assert len(origins) <= len(traced) <= len(origins) + 1  # the end token has no text
    assert "target" in origins and "drafter" in origins
    saved = said["timings"]["draft_n_accepted"]
    note = browser.text(".note")
    assert note.split(" tokens in ")[0].endswith(str(len(traced))) and f"{saved} of {len(traced)} passes saved" in note
    browser.find(".figures summary").click()
    count = len(said["timings"]["drafted_per_position"])
    browser.until(lambda: len(browser.all(".chart.positions .accepted")) == count, "drew the figures")
    figures = browser.text(".figures-body")
    assert f"produced {said['timings']['acceptance_length']:.2f} tokens on average" in figures
    assert words in browser.text("#announce"), "the finished answer is not read aloud"
    assert browser.log() == []


def test_the_card_and_the_work_of_a_real_server(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    with served.client() as client:
        card = client.get("/ui/card").json()
        work = client.get("/ui/work?id=nobody").json()
        prompt = {"model": "geminate-embedded", "messages": [{"role": "user", "content": "Hi " * 400}], "stream": True}
        headers = {"X-Request-Id": "page-test"}
        with client.stream(
            "POST", "/v1/chat/completions", json=prompt | {"max_tokens": 400}, headers=headers
        ) as answer:
            seen = client.get("/ui/work?id=page-test").json()
            answer.close()
    assert card["id"] == "geminate-embedded" and card["drafter"]["bytes"] > 0 and card["threads"] >= 1
    assert card["target"]["parameters"] > 1e5 and card["memory"]["resident"] > 1e6 and card["context"] > 0
    assert set(card["sampling"]) == {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    assert work["prompt"] is None and work["generated"] >= 0
    assert seen["prompt"] is None or seen["prompt"]["of"] > 400
    browser.find("#open-card").click()
    assert "parameters" in browser.text("#card-lines") and "Geminate" in browser.text("#card-lines")
    served.quiet()


def test_a_schema_shapes_the_answer(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"]}
    setting(browser, schema=json.dumps(schema), temperature=0, max_tokens=32)
    send(browser, PROMPT)
    assert 0 <= json.loads(browser.text(".json pre"))["n"] <= 9
    setting(browser, schema="")


def test_origins_differ_by_more_than_colour(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    script = """return [...document.querySelectorAll('.legend .tok')].map((e) => {
      const style = getComputedStyle(e); return style.textDecorationLine + ' ' + style.textDecorationStyle; })"""
    styles = browser.js(script)
    assert len(set(styles)) == 4, styles


def test_race_ends_identical(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    setting(browser, temperature=1.0, max_tokens=48)
    verdict = race(browser)
    assert "Same output, token for token, in all 6 runs" in verdict, verdict
    assert verdict.startswith(("Speculation is", "No clear difference"))
    texts = browser.js("return [...document.querySelectorAll('.lane-text .words')].map((e) => e.textContent)")
    assert len(texts) == 2 and texts[0] == texts[1] != ""
    tiles = browser.js("return [...document.querySelectorAll('.lane dd')].map((e) => e.textContent)")
    assert tiles[3].startswith("0 of ") and "–" not in tiles
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
    setting(browser, max_tokens=0)
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
        turns = browser.module("return (await load('chat.js')).shown().turns.map(({ content }) => content)")
        roles = ["user", "assistant", "user"]
        messages = [{"role": role, "content": text} for role, text in zip(roles, turns[:3], strict=True)]
        body = {"model": "geminate-embedded", "messages": messages, "seed": 1}
        said = client.post("/v1/chat/completions", json=body | {"max_completion_tokens": 16}).json()
    assert said["choices"][0]["message"]["content"] == turns[3], "the earlier turns were not sent as they stand"
    browser.find("#fresh").click()
    assert browser.all(".message") == [] and browser.focus() == "prompt"


def test_keyboard_alone(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    tab, right = "\ue004", "\ue014"
    order = ["skip", "tab-chat", "open-card", "open-chats", "open-settings", "prompt", "marks", "fresh", "send"]
    visible = """const s = getComputedStyle(document.activeElement);
      return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2"""
    for name in order:
        browser.press(tab)
        assert browser.focus() == name and (name == "prompt" or browser.js(visible)), (name, browser.focus())
    assert browser.js("return getComputedStyle(document.getElementById('composer')).outlineStyle") == "none"
    browser.find("#prompt").click()
    assert browser.js("return getComputedStyle(document.getElementById('composer')).outlineStyle") == "solid"
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
    browser.press(tab, tab, tab, tab)
    assert browser.focus() == "race-prompt"
    browser.press(ENTER)
    browser.until(lambda: "Same output, token for token" in browser.text("#verdict"), "raced")


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
        assert "Same output, token for token" in race(browser)


def test_theme_button_overrules_the_system_and_stays(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.js(paper)
    setting(browser, theme="dark")
    dark = browser.js(paper)
    assert dark != light
    browser.driver.refresh()
    assert browser.js(paper) == dark and browser.find("#theme").get_attribute("value") == "dark"
    setting(browser, theme="system")
    assert browser.js(paper) == light


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_fits_the_width(browser: Browser, served: Served, width: int) -> None:
    open_page(browser, served, width=width, height=740)
    setting(browser, max_tokens=32)
    send(browser, PROMPT + " " + "x" * 200)
    assert "Same output, token for token" in race(browser)
    for name in ("race", "chat"):
        browser.find(f"#tab-{name}").click()
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth")


def test_motion_is_reduced_on_request(browser: Browser, served: Served) -> None:
    open_page(browser, served)
    moves = """
    const probe = document.createElement('article');
    probe.className = 'busy';
    probe.append(document.createElement('div'));
    probe.firstChild.className = 'words';
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
