"""Conversations as templates understand them: tool_responses for old ones, known roles, arguments as values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate.text.messages import call_arguments, prepared
from geminate.text.template import ChatTemplate

# In the manner of Gemma 4's first templates: no role 'tool', results in the message that called.
OLD = """\
{%- for m in messages -%}
{%- set kind = 'tool' -%}
<|turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}
{% for c in m['tool_calls'] or [] %}<|tool_call>call:{{ c['function']['name'] }}{{ '{}' }}<tool_call|>{% endfor -%}
{%- for r in m['tool_responses'] or [] -%}
<|tool_response>response:{{ r['name'] }}{value:<|"|>{{ r['response'] }}<|"|>}<tool_response|>
{%- endfor -%}
{{ m['content'] }}{% if m['content'] or not m['tool_responses'] %}<turn|>
{% endif %}
{%- endfor -%}"""
USER = {"role": "user", "content": "?"}


def call(name: str, id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def rendered(messages: list[dict[str, Any]]) -> str:
    return ChatTemplate(OLD).render(messages, add_generation_prompt=False)


ASKED = {"role": "assistant", "content": "", "tool_calls": [call("f", "a")]}
RESULT = {"role": "tool", "content": "42", "tool_call_id": "a"}


def test_results_stand_behind_their_calls() -> None:
    assert rendered([USER, ASKED, RESULT]) == (
        '<|turn>user\n?<turn|>\n<|turn>model\n<|tool_call>call:f{}<tool_call|><|tool_response>response:f{value:<|"|>42<|"|>}'
        "<tool_response|>"
    )


def test_the_answer_follows_in_the_same_turn() -> None:
    text = rendered([USER, ASKED, RESULT, {"role": "assistant", "content": "It is 42."}, USER])
    assert (
        text.endswith("<tool_response|>It is 42.<turn|>\n<|turn>user\n?<turn|>\n") and text.count("<|turn>model") == 1
    )


def test_several_results_and_their_names() -> None:
    asked = {**ASKED, "tool_calls": [call("f", "a"), call("g", "b"), call("h", "c")]}
    results = [
        {"role": "tool", "content": "1", "tool_call_id": "b"},
        {"role": "tool", "content": [{"type": "text", "text": "2"}], "name": "own"},
        {"role": "tool", "content": "3"},
    ]
    made = prepared([USER, asked, *results], OLD)
    assert [m["role"] for m in made] == ["user", "assistant"]
    assert made[1]["tool_responses"] == [
        {"name": "g", "response": "1"}, {"name": "own", "response": "2"}, {"name": "h", "response": "3"}
    ]  # fmt: skip


def test_a_text_before_the_calls_stays_before_them() -> None:
    text = rendered([USER, {**ASKED, "content": "Let me see."}, RESULT])
    assert text.index("Let me see.") < text.index("<|tool_call>") and text.endswith("<tool_response|>")


def test_a_result_without_a_call() -> None:
    made = prepared([USER, {"role": "tool", "content": "42"}], OLD)
    assert made[1]["tool_responses"] == [{"name": "unknown", "response": "42"}]


@pytest.mark.parametrize(
    "source",
    [
        "{% if m.role == 'tool' %}{{ m.tool_responses }}{% endif %}",
        '{% if m.role in ["tool", "ipython"] %}tool_responses',
        "",
    ],
)
def test_templates_that_know_the_role_get_it(source: str) -> None:
    assert [m["role"] for m in prepared([USER, ASKED, RESULT], source)] == ["user", "assistant", "tool"]


def test_developer() -> None:
    said = [{"role": "developer", "content": "Be short."}, USER]
    assert prepared(said, "{{ m.role }}")[0] == {"role": "system", "content": "Be short."}
    assert prepared(said, "{% if m.role in ['system', 'developer'] %}")[0] == said[0]
    gemma3 = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}S:{{ messages[0].content }}"
    assert ChatTemplate(gemma3).render(said) == "S:Be short."


@pytest.mark.parametrize(
    "text, value",
    [
        ("", {}),
        (" ", {}),
        ('{"a": [1]}', {"a": [1]}),
        ('{"a": ', {"raw": '{"a": '}),
        ("[1]", {"raw": "[1]"}),
        ('"x"', {"raw": '"x"'}),
        ('{"a": NaN}', {"raw": '{"a": NaN}'}),
        ("[" * 10_000, {"raw": "[" * 10_000}),
    ],
)
def test_arguments(text: str, value: Any) -> None:
    assert call_arguments(text) == value


@given(st.text())
def test_any_text_is_an_object(text: str) -> None:
    assert isinstance(call_arguments(text), dict)


def test_the_messages_given_stay_as_they_are() -> None:
    said = [{"role": "developer", "content": "x"}, USER, dict(ASKED), dict(RESULT)]
    before = repr(said)
    prepared(said, OLD)
    assert repr(said) == before
