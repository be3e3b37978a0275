"""Markdown on the page: what is rendered, that streaming ends in the same nodes, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from support.browser import Browser
from support.fake_chat import FakeChat

SAMPLE = """# One

Text with **bold**, *emphasis*, `a<b>` and ~~old~~ &amp; &#233; &unknown; words.
A second line.

#### Skips two levels

- item
  - inner

    with a paragraph
- [x] done
- [ ] to do

3. three
4. four

| a | b |
|---|--:|
| 1 | `2` |

```python
def f(x):
    return x  # <b>
```

    indented

> quoted
> - list

Setext
======

<div onclick="x()">

text

</div>

<!-- a comment

that goes on --> end

[link][1] and https://example.org/a?b=c&d

[1]: https://example.org/one "title"
***
"""
ONE_SHOT = """
const { render } = await load('markdown.js');
const place = document.createElement('div');
place.append(...render(args[0]));
return place.innerHTML;
"""
STREAMED = """
const { MarkdownStream } = await load('stream.js');
const place = document.createElement('div');
const stream = new MarkdownStream(place);
for (const piece of args[0]) { stream.append(piece); stream.paint(); }
stream.finish();
return { html: place.innerHTML, work: stream.work };
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Browser]:
    with FakeChat() as server:
        browser.open(server.url)
        yield browser


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** _c_ ~~d~~", "<p>a <strong>b</strong> <em>c</em> <del>d</del></p>"),
        ("one\ntwo", "<p>one<br>two</p>"),
        ("`<b>` &lt; &copy; &#x41; &#0; &nope;", "<p><code>&lt;b&gt;</code> &lt; © A \ufffd &amp;nope;</p>"),
        ("### Deep\n# Top", '<h4 class="depth3">Deep</h4><h4 class="depth1">Top</h4>'),
        ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
        ("<i>x</i>", "<p>&lt;i&gt;x&lt;/i&gt;</p>"),
        ("[a](javascript:alert(1))", "<p>a (javascript:alert(1))</p>"),
        ("[a](data:text/html,x)", "<p>a (data:text/html,x)</p>"),
        ("[a](/v1/models)", "<p>a (/v1/models)</p>"),
        (
            "![cat](https://x.org/c.png)",
            '<p><a href="https://x.org/c.png" target="_blank" rel="noopener noreferrer nofollow" '
            'title="https://x.org/c.png">[image: cat]</a></p>',
        ),
    ],
)
def test_rendering(page: Browser, text: str, html: str) -> None:
    assert page.module(ONE_SHOT, text) == html


def test_code_lists_and_tables(page: Browser) -> None:
    html = page.module(ONE_SHOT, SAMPLE)
    assert '<span>python</span><button type="button"' in html and "return x  # &lt;b&gt;" in html
    assert '<td class="right"><code>2</code></td>' in html
    assert 'aria-label="done" class="mark"' in html and 'aria-label="to do" class="mark"' in html
    assert '<a href="https://example.org/one"' in html and "onclick=" in html and "<div onclick" not in html


@pytest.mark.parametrize("seed", range(12))
def test_streaming_ends_in_the_same_nodes(page: Browser, seed: int) -> None:
    draw = random.Random(seed)
    blocks = SAMPLE.split("\n\n")
    draw.shuffle(blocks)
    text = draw.choice(["\n\n", "\n", "\r\n\r\n"]).join(blocks)
    pieces, at = [], 0
    while at < len(text):
        size = draw.randint(1, 7)
        pieces.append(text[at : at + size])
        at += size
    assert page.module(STREAMED, pieces)["html"] == page.module(ONE_SHOT, text)


def test_any_prefix_can_be_painted(page: Browser) -> None:
    assert page.module(STREAMED, list(SAMPLE))["html"] == page.module(ONE_SHOT, SAMPLE)


def test_finished_blocks_are_not_read_again(page: Browser) -> None:
    text = "".join(f"Paragraph {i} with some words in it, and a few more.\n\n" for i in range(1000))
    pieces = [text[at : at + 20] for at in range(0, len(text), 20)]
    work = page.module(STREAMED, pieces)["work"]
    assert work < 8 * len(text), f"{work / len(text):.0f} characters read for each one"


def test_nodes_that_do_not_change_stay(page: Browser) -> None:
    script = """
    const { MarkdownStream } = await load('stream.js');
    const place = document.createElement('div');
    const stream = new MarkdownStream(place);
    stream.append('first\\n\\n```py\\nx = 1\\n'); stream.paint();
    const [first, code] = place.children;
    const text = code.querySelector('code').firstChild;
    stream.append('y = 2\\n'); stream.paint();
    const same = code.querySelector('code').firstChild === text;
    const kept = place.children[0] === first && place.children[1] === code && same;
    stream.append('```\\n\\nlast'); stream.paint(); stream.finish();
    return [kept, place.children[0] === first, place.children[1] === code, text.data, place.children.length];
    """
    assert page.module(script) == [True, True, True, "x = 1\ny = 2", 3]


def test_painting_leaves_time_for_the_page(page: Browser) -> None:
    """However long one painting takes, at least two thirds of the time are left."""
    script = """
    const { paced } = await load('stream.js');
    let count = 0;
    const paint = paced(() => { count += 1; const began = performance.now(); while (performance.now() - began < 40); });
    const began = performance.now();
    while (performance.now() - began < 1500) { paint(); await new Promise((done) => setTimeout(done, 5)); }
    return count;
    """
    assert 2 <= page.module(script) <= 9
