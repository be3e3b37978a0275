"""Templates of strangers: what they may cost, and that ordinary ones render as before."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from geminate.errors import TemplateTimeoutError, TokenizerError
from geminate.text.deadline import within
from geminate.text.template import ChatTemplate

USER = [{"role": "user", "content": "x"}]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def rendered(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate(source).render(messages, **options)


def doubling(step: str) -> str:
    """A variable that grows by ``step`` sixty times, then is used."""
    return (
        "{% set ns = namespace(x='ab', y=[1]) %}{% for i in range(60) %}"
        + step
        + "{% endfor %}{{ ns.x|length }}{{ ns.y }}"
    )


BOMBS = {
    "constant power": "{{ (9**9999999)|string }}",
    "power of a power": "{{ 9 ** (9 ** 9) }}",
    "power in a condition": "{% if 9 ** (9 ** 9) %}{% endif %}",
    "power in autoescape": "{% autoescape 9 ** (9 ** 9) %}{% endautoescape %}",
    "repeated text": "{{ 'a'*1000000000 }}",
    "number times text": "{{ 1000000000*'a' }}",
    "repeated list": "{{ (['a'*100000]*100000)|join }}",
    "list of lists": "{% set x = [1]*1000 %}{% set x = [x]*1000 %}{% set x = [x]*1000 %}{{ x == x }}",
    "center": "{{ 'a'.center(3000000000) }}",
    "method as a value": "{% set f = 'a'.ljust %}{{ f(3000000000) }}",
    "method by attr": "{{ ('a'|attr('rjust'))(3000000000) }}",
    "zfill": "{{ '1'.zfill(3000000000) }}",
    "expandtabs": "{{ ('\\t'*1000).expandtabs(3000000) }}",
    "center filter": "{{ 'a'|center(3000000000) }}",
    "mapped filter": "{{ ['a']|map('center', 3000000000)|list }}",
    "filter block": "{% filter center(3000000000) %}a{% endfilter %}",
    "doubling by +": doubling("{% set ns.x = ns.x + ns.x %}"),
    "doubling by ~": doubling("{% set ns.x = ns.x ~ ns.x %}"),
    "doubling by a block": doubling("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "doubling by join": doubling("{% set ns.x = [ns.x, ns.x]|join %}"),
    "doubling by format": doubling("{% set ns.x = '{0}{0}'.format(ns.x) %}"),
    "doubling by %": doubling("{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
    "doubling by nesting": doubling("{% set ns.y = [ns.y, ns.y] %}"),
    "doubling by a dict": doubling("{% set ns.y = {'a': ns.y, 'b': ns.y} %}"),
    "doubling by arguments": "{% macro f() %}{{ f(varargs, varargs) }}{% endmacro %}{{ f(1) }}",
    "slices kept": "{% set x = 'a'*60000000 %}{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = ns.l + [x[i:]] %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'a'*100000 }}{% endfor %}",
    "replace": "{{ ('a'*100000).replace('a', 'b'*100000) }}",
    "replace filter": "{{ ('a'*100000)|replace('a', 'b'*100000) }}",
    "join": "{{ ('a'*100000).join(range(100000)|map('string')) }}",
    "translate": "{{ ('a'*1000000).translate({97: 'b'*1000000}) }}",
    "split": "{{ ('a '*30000000).split()|length }}",
    "search from the right": "{{ ('a'*60000000).rfind('b' ~ 'a'*30000000) }}",
    "list of characters": "{{ ('a'*60000000)|list|length }}",
    "sum of lists": "{{ ([[1]*1000]*1000)|sum(start=[])|length }}",
    "indent": "{{ ('a\\n'*100000)|indent(100000) }}",
    "indented JSON": "{{ [1]|tojson(indent=1000000000) }}",
    "separated JSON": "{{ ([1]*100000)|tojson(separators=('a'*10000, 'b')) }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "width by name": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "width as argument": "{{ '%*d' % (1000000000, 1) }}",
    "precision": "{{ '%.1000000000f' % 1 }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "nested format": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "markup": "{{ ('{:>1000000000}'|safe).format(1) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "round": "{{ 5|round(1000000000, 'ceil') }}",
    "int": "{{ ('f'*60000000)|int(0, 16) // 7 }}",
    "batch": "{{ [1]|batch(1000000000, 0)|list }}",
    "wordwrap": "{{ ('a '*10000)|wordwrap(1, wrapstring='b'*1000000) }}",
    "range": "{{ range(10**9)|list }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "long literal": "{{ " + "9" * 10_000 + " }}",
    "deep nesting": "{{ " + "(" * 5_000 + ")" * 5_000 + " }}",
    "long source": "x" * 600_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str) -> None:
    """Parsing counts too: Jinja folds constants there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with pytest.raises(TokenizerError, match="the chat template") as caught:
        rendered(BOMBS[name])
    assert time.perf_counter() - began < 4  # the deadline is not what ended it
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        LOOP,
        "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(99999) %}{{ range(99999)|map('string')|select('eq', 'x')|list }}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ namespace() }}{% endfor %}{% endfor %}",
    ],
)
def test_loops_end(source: str) -> None:
    began = time.perf_counter()
    with pytest.raises(TemplateTimeoutError, match=r"^the chat template failed: it took longer than 0\.3 s$"):
        ChatTemplate(source, seconds=0.3).render(USER)
    assert time.perf_counter() - began < 3


def test_parsing_ends() -> None:
    with pytest.raises(TokenizerError, match=r"does not parse: it took longer than 0\.05 s"):
        ChatTemplate("{{ a }}" * 60_000, seconds=0.05)


def test_a_call_may_set_a_shorter_time() -> None:
    with pytest.raises(TemplateTimeoutError, match=r"0\.1 s"):
        ChatTemplate(LOOP).render(USER, seconds=0.1)


def test_messages_of_errors_are_short() -> None:
    with pytest.raises(TokenizerError) as caught:
        rendered("{{ raise_exception('long ' * 1000000) }}")
    assert len(str(caught.value)) < 1000


ORDINARY = [
    "[1, 2]|sum", "[[1], [2]]|sum(start=[])", "messages|sum('n', 3)", "'a  b'.split()", "'a,b,c'.rsplit(',', 1)",
    "['x', 1]|join('-')", "messages|join(',', attribute='role')", "'-'.join(['p', 'q'])",
    "'%s: %05.1f%%'|format('q', 2)",
    "'%(a)s%(a)s' % {'a': 1}", "'{:>5}|{x[0]}'.format('r', x=[2])", "'{a}'.format_map({'a': 3})", "7 % 3", "-7 // 2",
    "2 ** 10", "2 ** -1", "[1] * 3", "(1, 2, 3)[1:]", "'abc'[::-1]", "1.5 + 2", "'ab'|list", "'a'|center(3)", "1, 2",
    "'a\\nb'|indent(2)", "'aXa'|replace('a', 'b', 1)", "' a '|trim", "2.345|round(1)", "[3, 1]|sort", "{'a': [1]}",
    "messages[0].role|safe ~ '<'", "['a', 'b']|map('upper')|join", "[1, 2, 3]|batch(2)|list", "'x' * 3", "3 * 'x'",
    "'5'|int + 1",
    "messages[0].get('role')", "messages|map(attribute='role')|list", "range(3)|list", "'a' in 'abc'",
    "none ~ 1.0 ~ true",
]  # fmt: skip


@pytest.mark.parametrize("autoescape", ["true", "false"])
def test_ordinary_values_are_what_jinja_makes(autoescape: str) -> None:
    source = (
        "{% autoescape " + autoescape + " %}" + "".join("{{ " + e + " }}\n" for e in ORDINARY) + "{% endautoescape %}"
    )
    messages = [{**USER[0], "n": 4}]
    expected = ImmutableSandboxedEnvironment(trim_blocks=True).from_string(source).render(messages=messages)
    assert rendered(source, messages) == expected


def test_a_long_conversation_renders() -> None:
    source = "{% for m in messages %}{{ m.role ~ ':' + m.content.split('</think>')[-1]|trim }}{% endfor %}"
    messages = [{"role": "user", "content": f"{i} " + "\U0001f600 word " * 500} for i in range(1000)]
    assert len(rendered(source, messages)) > 3_500_000
    tools = [{"name": f"tool {i}", "values": list(range(100))} for i in range(1000)]
    assert json.loads(rendered("{{ tools|tojson }}", tools=tools)) == tools


def busy() -> None:
    while True:
        pass


def test_a_deadline_never_reaches_later_code() -> None:
    """The work ends about when the exception is raised: it must have come inside, or not at all."""
    ended = late = 0
    for step in range(150):
        end = time.perf_counter() + 0.003 + step * 2e-5

        def work(end: float = end) -> int:
            while time.perf_counter() < end:
                pass
            return 1

        try:
            ended += within(0.004, work)
        except TimeoutError:
            late += 1
        for _ in range(200):
            pass
    assert ended + late == 150 and ended and late


def test_a_swallowed_deadline_comes_again() -> None:
    swallowed = []

    def work() -> None:
        try:
            busy()
        except BaseException as error:
            swallowed.append(error)
        busy()

    with pytest.raises(TimeoutError):
        within(0.05, work)
    assert len(swallowed) == 1


def test_threads_have_deadlines_of_their_own() -> None:
    results: list[object] = []

    def run(seconds: float) -> None:
        try:
            within(seconds, busy)
        except TimeoutError as error:
            results.append(str(error))

    threads = [threading.Thread(target=run, args=(0.1 * i,)) for i in (3, 1, 2)]
    for thread in threads:
        thread.start()
    assert within(5, lambda: "fine") == "fine"
    for thread in threads:
        thread.join(10)
    assert sorted(map(str, results)) == [f"it took longer than {s} s" for s in ("0.1", "0.2", "0.3")]


def test_a_deadline_that_was_kept_leaves_no_trace() -> None:
    """In CPython 3.11 an exception that was set and cleared makes every traced call endless."""
    within(5.0, lambda: None)
    ended = subprocess.run(
        [sys.executable, "-c", _TRACED], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=20
    )
    assert ended.returncode == 0


_TRACED = """
import sys
from geminate.text.deadline import within
within(5.0, lambda: None)
try:
    within(0.01, lambda: [i for i in iter(int, 1)])
except TimeoutError:
    pass
sys.settrace(lambda frame, event, arg: None)
(lambda: None)()
"""
