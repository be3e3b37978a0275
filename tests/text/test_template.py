"""Chat templates: what transformers renders, in a sandbox that holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.errors import ParameterError, TokenizerError
from geminate.families.gemma4.dialect import DIALECT
from geminate.text.template import ChatTemplate, check_messages
from support.tiny_tokenizer import EMBEDDED, embedded_tokenizer

USER = [{"role": "user", "content": "Hi <there> & 'you'"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer", "description": "first"}},
                "required": ["a"],
            },
        },
    }
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    {"role": "assistant", "content": "<|channel>thought\nhm<channel|>yes"},
    {"role": "user", "content": "and?"},
]
# A template with everything that transformers offers to templates.
RICH = """\
{{ bos_token }}
{%- for m in messages %}
    {% if loop.index > 3 %}{% break %}{% endif %}
<|turn>{{ 'model' if m.role == 'assistant' else m.role }}
{% generation %}{{ m.content | trim }}{% endgeneration %}<turn|>
{% endfor %}
{% if tools %}{{ tools | tojson(indent=2) }}{{ tools | tojson }}{% endif %}
{% if enable_thinking is defined and enable_thinking %}<|think|>{% endif %}
{% if add_generation_prompt %}<|turn>model
{% endif %}{{ strftime_now('%Y')[:2] }}{{ eos_token }}
"""


def rendered(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate(source, specials={"bos_token": "<bos>", "eos_token": "<eos>"}).render(messages, **options)


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("source", ["rich", "embedded"])
def test_renders_what_transformers_renders(
    source: str, tools: Any, thinking: bool | None, prompt: bool, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    text = RICH if source == "rich" else (EMBEDDED / "chat_template.jinja").read_text()
    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(EMBEDDED / "tokenizer.json"), bos_token="<bos>", eos_token="<eos>"
    )
    options = {} if thinking is None else {"enable_thinking": thinking}
    chat = USER if source == "rich" else CHAT
    expected = reference.apply_chat_template(
        chat,
        tools=tools,
        chat_template=text,
        tokenize=False,
        add_generation_prompt=prompt,
        **options,
    )
    made = rendered(text, chat, tools=tools, add_generation_prompt=prompt, enable_thinking=thinking)
    assert made == expected
    ids = reference.apply_chat_template(
        chat,
        tools=tools,
        chat_template=text,
        add_generation_prompt=prompt,
        return_dict=False,
        **options,
    )
    assert embedded_tokenizer().encode(made, add_bos=False) == ids


def test_embedded_template() -> None:
    template = ChatTemplate.load(Checkpoint.open(EMBEDDED), DIALECT)
    assert template is not None
    assert template.render([{"role": "user", "content": "Hi"}]) == ("<bos><|turn>user\nHi<turn|>\n<|turn>model\n")
    text = template.render(CHAT, enable_thinking=True)
    assert text.startswith("<bos><|turn>system\n<|think|>\nBe brief.<turn|>\n")
    assert "hm" not in text and text.endswith("<|turn>user\nand?<turn|>\n<|turn>model\n")


def test_tool_turns_of_the_embedded_template() -> None:
    template = ChatTemplate.load(Checkpoint.open(EMBEDDED), DIALECT)
    assert template is not None
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    text = template.render(
        [
            *USER,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "name": "add", "content": "3"},
        ],
        tools=TOOLS,
    )
    assert "<|tool>declaration:add{" in text and "<|tool_call>call:add{a:1}<tool_call|>" in text
    assert "<|tool_response>response:add{" in text


def test_tojson_does_not_escape_html() -> None:
    assert rendered("{{ messages[0].content | tojson }}") == "\"Hi <there> & 'you'\""
    assert rendered("{{ 'é' | tojson }}{{ 'é' | tojson(ensure_ascii=true) }}") == '"é""\\u00e9"'


def test_thinking_is_undefined_unless_said() -> None:
    source = "{{ enable_thinking is defined }}{{ enable_thinking }}"
    assert rendered(source) == "False"
    assert rendered(source, enable_thinking=False) == "TrueFalse"


def test_further_variables_reach_the_template() -> None:
    assert rendered("{{ preserve_thinking }}{{ documents is none }}", preserve_thinking=7) == "7True"


def test_raise_exception_is_a_tokenizer_error_with_its_words() -> None:
    with pytest.raises(TokenizerError, match=r"^the chat template failed: roles must alternate$"):
        rendered("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ nothing.at.all }}", "{{ messages | nofilter }}", "{{ messages[0]() }}",
               "{% for i in range(10**9) %}{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
)  # fmt: skip
def test_failing_templates(source: str) -> None:
    with pytest.raises(TokenizerError, match="the chat template") as caught:
        rendered(source)
    assert "\n" not in str(caught.value)


def test_syntax_errors_name_the_line() -> None:
    with pytest.raises(TokenizerError, match=r"does not parse: .*\(line 2\)"):
        ChatTemplate("a\n{% for %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__.__builtins__.open('/etc/passwd') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}x{{ ('{0.__class__.__mro__[1]}'.format(1)).x.y }}",
        "{{ strftime_now.__code__.co_code.x }}",
        "{% set _ = messages.append(1) %}",
        "{% set _ = messages[0].update({'role': 'x'}) %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    messages = [dict(USER[0])]
    with pytest.raises(TokenizerError):
        rendered(source, messages)
    assert messages == USER


def test_load_order(tmp_path: Path) -> None:
    assert ChatTemplate.load(Checkpoint.open(tmp_path), DIALECT) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": "<s>", "chat_template": "config {{ bos_token }}"}))
    template = ChatTemplate.load(Checkpoint.open(tmp_path), DIALECT)
    assert template is not None and template.render(USER) == "config <s>"
    (tmp_path / "chat_template.jinja").write_text("file {{ bos_token }}")
    template = ChatTemplate.load(Checkpoint.open(tmp_path), DIALECT)
    assert template is not None and template.render(USER) == "file <s>"


def test_named_templates(tmp_path: Path) -> None:
    entry = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entry}))
    template = ChatTemplate.load(Checkpoint.open(tmp_path), DIALECT)
    assert template is not None
    assert template.render(USER) == "D" and template.render(USER, tools=TOOLS) == "T"
    assert ChatTemplate({"only": "O"}).render(USER) == "O"
    with pytest.raises(TokenizerError, match="no default"):
        ChatTemplate({"a": "A", "b": "B"}).render(USER)


@pytest.mark.parametrize("entry", [3, [1], [{"name": "default"}], []])
def test_bad_entries(tmp_path: Path, entry: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entry}))
    with pytest.raises(TokenizerError, match="chat"):
        ChatTemplate.load(Checkpoint.open(tmp_path), DIALECT)


def test_unreadable_template(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja"):
        ChatTemplate.load(Checkpoint.open(tmp_path), DIALECT)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty"),
        ("hello", "must be a list"),
        ({"role": "user"}, "must be a list"),
        (["hello"], r"messages\[0\] must be an object"),
        ([*USER, {"role": "robot", "content": ""}], r"messages\[1\]: role must be one of system"),
        ([{"content": "x"}], "role"),
        ([{"role": "user"}], "content must be a string"),
        ([{"role": "user", "content": 3}], "content must be a string"),
        ([{"role": "user", "content": {"a": 1}}], "content must be a string"),
        ([{"role": "user", "content": ["a"]}], "a part of content must be an object, not a string"),
        ([{"role": "user", "content": [{"type": "image"}]}], "type 'image'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "needs a string"),
    ],
)
def test_messages_are_checked(messages: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_messages(messages)


def test_legal_messages() -> None:
    check_messages(CHAT)
    check_messages([{"role": "assistant", "content": None, "tool_calls": [{}]}])
    check_messages([{"role": "tool", "content": {"sum": 3}}])
