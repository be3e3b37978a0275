"""Replies taken apart: content, reasoning, calls; stop strings see content alone; nothing is lost or told too early."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from geminate.errors import ParameterError
from geminate.text.reply import ChatReply, PlainReply, Reply, ReplyDelta, make_reply, open_thought
from geminate.text.tokenizer import Tokenizer
from support.tiny_tokenizer import backend, embedded_tokenizer
from support.tool_calls import arguments_of, render

TOKENIZER = embedded_tokenizer()
CALL = render("f", {"a": "x", "n": [1, True]})


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_bos=False)


def run(reply: Reply, tokens: list[int]) -> list[ReplyDelta]:
    deltas: list[ReplyDelta] = []
    for token in tokens:
        deltas += reply.push(token)
        if reply.stopped:
            break
    return [*deltas, *reply.flush()]


def joined(deltas: list[ReplyDelta], kind: str) -> str:
    return "".join([delta.text for delta in deltas if delta.kind == kind])


def parts(text: str, stops: list[str] | None = None, *, tools: bool = True) -> tuple[str, str, list[tuple[str, str]]]:
    """(content, reasoning, calls)."""
    deltas = run(ChatReply(TOKENIZER, stops or [], tools=tools), ids(text))
    return joined(deltas, "content"), joined(deltas, "reasoning"), arguments_of(deltas)


ARGS = ("f", '{"a": "x", "n": [1, true]}')


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello\nthere<turn|>", ("Hello\nthere", "", [])),
        ("<|channel>thought\nHm,\nwell\n<channel|>Hello", ("Hello", "Hm,\nwell\n", [])),
        ("<|channel>thought\n<channel|>\n Hello", ("\n Hello", "", [])),
        ("<|channel>thought<channel|>Hello", ("Hello", "", [])),
        ("<|channel>though<channel|>Hello", ("Hello", "though", [])),
        ("<|channel>thoughts\n<channel|>Hello", ("Hello", "thoughts\n", [])),
        ("<|channel>No name<channel|>Hello", ("Hello", "No name", [])),
        ("<|channel>thought\nNever closed<turn|>", ("", "Never closed", [])),
        ("<|channel>thought\nOne<channel|>A<|channel>thought\nTwo<channel|>B", ("AB", "OneTwo", [])),
        ("<|channel>thought\nOne<|channel>thought\nTwo<channel|>B", ("B", "OneTwo", [])),
        ("A<channel|>B", ("AB", "", [])),
        (CALL + "<|tool_response>", ("", "", [ARGS])),
        (CALL + CALL, ("", "", [ARGS, ARGS])),
        (f"<|channel>thought\nCall it<channel|>So:\n{CALL}", ("So:\n", "Call it", [ARGS])),
        (f"<|channel>thought\nCall it{CALL}Done", ("Done", "Call it", [ARGS])),
        (f"A{CALL}B", ("AB", "", [ARGS])),
        ("<|tool_call>call:f{a:1<|tool_call>call:g{}<tool_call|>", ("", "", [("f", '{"a": 1}'), ("g", "{}")])),
        ("<|tool_call>call:f<tool_call|>", ("", "", [("f", "{}")])),
        ("<|tool_call>call:f", ("", "", [])),
        ("So: <|tool_call>call:", ("So: ", "", [])),
        ("<|tool_call>call:f{", ("", "", [("f", "{")])),
        (CALL + "<|tool_call>call:f{n:1", ("", "", [ARGS, ("f", '{"n": 1')])),
        ("<|tool_call>I would rather not {x}<tool_call|>!", ("I would rather not {x}!", "", [])),
        ("A<tool_call|>B", ("AB", "", [])),
    ],
)
def test_parts(text: str, expected: tuple[str, str, list[tuple[str, str]]]) -> None:
    assert parts(text) == expected


def test_without_tools_calls_are_content() -> None:
    assert parts("A" + CALL, tools=False) == ("Acall:f{a:x,n:[1,true]}", "", [])


def test_models_without_the_tokens() -> None:
    bare = Tokenizer(backend(["<pad>", "<eos>", "<bos>", "<unk>"]))
    text = "<|channel>thought<channel|><|tool_call>"
    deltas = run(ChatReply(bare, [], tools=True), bare.encode(text, add_bos=False))
    assert joined(deltas, "content") == text and {delta.kind for delta in deltas} == {"content"}


def test_calls_are_numbered_and_named_once() -> None:
    deltas = run(ChatReply(TOKENIZER, [], tools=True), ids(CALL + CALL))
    heads = [delta for delta in deltas if delta.call_id is not None]
    assert [(delta.index, delta.name) for delta in heads] == [(0, "f"), (1, "f")]
    assert heads[0].call_id != heads[1].call_id and all(d.call_id and d.call_id.startswith("call_") for d in heads)


def test_pieces_come_as_soon_as_they_are_certain() -> None:
    reply = ChatReply(TOKENIZER, [], tools=True)
    told: list[tuple[str, str]] = []
    for token in ids('<|channel>thought\nHm<channel|>Hi<|tool_call>call:f{a:<|"|>x'):
        told += [(delta.kind, delta.text) for delta in reply.push(token)]
    so_far = {kind: "".join([text for k, text in told if k == kind]) for kind, _ in told}
    assert so_far == {"reasoning": "Hm", "content": "Hi", "tool_call": '{"a": "x'}
    assert reply.flush() == []  # a cut closes nothing


def test_stop_strings_see_content_alone() -> None:
    thought = "<|channel>thought\nEND<channel|>"
    call = render("f", {"END": "END"})
    assert parts(f"{thought}{call}beforeENDafter", ["END"]) == ("before", "END", [("f", '{"END": "END"}')])
    reply = ChatReply(TOKENIZER, ["END"], tools=True)
    deltas = run(reply, ids("oneENDtwo"))
    assert reply.stopped and joined(deltas, "content") == "one"
    assert reply.push(ids("x")[0]) == [] == reply.flush()


def test_a_stop_string_may_span_what_stands_between() -> None:
    assert parts("aE<|channel>thought\nx<channel|>NDb", ["END"])[:2] == ("a", "x")
    assert parts(f"aE{CALL}Nb", ["END"])[0] == "aENb"


def test_a_stop_string_in_what_is_no_call() -> None:
    assert parts("<|tool_call>no ENDcall<tool_call|>more", ["END"])[0] == "no "


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_held_bytes_can_complete_a_stop_string(kind: str) -> None:
    stops = ["é"]
    reply: Reply = PlainReply(TOKENIZER, stops) if kind == "plain" else ChatReply(TOKENIZER, stops, tools=True)
    for byte in "é".encode():
        token = TOKENIZER.token_id(f"<0x{byte:02X}>")
        assert token is not None and reply.push(token) == []
    assert not reply.stopped
    assert reply.flush() == [] and reply.stopped


def test_empty_stop_is_refused() -> None:
    for make in (lambda: PlainReply(TOKENIZER, [""]), lambda: ChatReply(TOKENIZER, [""], tools=True)):
        with pytest.raises(ParameterError, match="must not be empty"):
            make()


NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,12}", fullmatch=True)
KEYS = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
SCALARS = (
    st.text(max_size=12)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(KEYS, VALUES, max_size=4)), min_size=1, max_size=2)


@settings(max_examples=40, phases=(Phase.explicit, Phase.generate))
@given(CALLS, st.sampled_from(["", "Let me look. ", "<|channel>thought\nHm, é😀<channel|>"]))
def test_calls_cut_at_every_token(calls: list[tuple[str, dict[str, Any]]], before: str) -> None:
    """Arguments end where they were cut, names are whole or absent, no syntax is content; streams say the same."""
    tokens = ids(before + "".join(render(name, arguments) for name, arguments in calls))
    whole = run(ChatReply(TOKENIZER, [], tools=True), tokens)
    complete = arguments_of(whole)
    assert [(name, json.loads(text)) for name, text in complete] == calls
    for cut in range(len(tokens)):
        deltas = run(ChatReply(TOKENIZER, [], tools=True), tokens[:cut])
        found = arguments_of(deltas)
        assert [name for name, _ in found] == [name for name, _ in complete[: len(found)]]
        assert [text for _, text in found[:-1]] == [text for _, text in complete[: len(found)]][:-1]
        if found:
            assert complete[len(found) - 1][1].startswith(found[-1][1])
        assert joined(whole, "content").startswith(joined(deltas, "content").removesuffix("\ufffd"))
        ended = tokens[:cut].count(MARKS[3])
        if len(found) > ended:  # the last one is cut off
            with pytest.raises(ValueError):
                json.loads(found[-1][1] + "!" if found[-1][1].endswith("}") else found[-1][1])


@pytest.mark.parametrize("held", ["", "tho", "thought", "thought\n", "thought\nI shou"])
def test_a_prompt_that_leaves_a_thought_open(held: str) -> None:
    full = "thought\nI should look.<channel|>Sunny."
    prompt = ids("<|turn>user\nHi<channel|><turn|>\n<|turn>model\n<|channel>" + held)
    reply = make_reply("chat", TOKENIZER, [], prompt)
    deltas = run(reply, ids(full[len(held) :]))
    said = "I should look."[max(0, len(held) - len("thought\n")) :]
    assert (joined(deltas, "reasoning"), joined(deltas, "content")) == (said, "Sunny.")


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "<|turn>model\n",
        "<|channel>thought\n<channel|>",
        "<|turn>user\n<|channel><turn|>\n<|turn>model\n",
        "<|channel>",
    ],
)
def test_whether_a_prompt_leaves_a_thought_open(prompt: str) -> None:
    assert (open_thought(TOKENIZER, ids(prompt)) is not None) == (prompt == "<|channel>")


@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 5), max_size=40))
def test_plain_content_is_the_decoded_text(tokens: list[int]) -> None:
    deltas = run(PlainReply(TOKENIZER), tokens)
    assert joined(deltas, "content") == TOKENIZER.decode(tokens)
    assert all(delta.text and delta.kind == "content" for delta in deltas)


MARKS = [TOKENIZER.token_id(m) or 0 for m in ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>')]


@given(st.lists(st.integers(0, 1200) | st.sampled_from(MARKS), max_size=60), st.booleans())
def test_any_tokens(tokens: list[int], tools: bool) -> None:
    """Content is the decoded text of the tokens outside of channels and calls; calls are JSON."""
    deltas = run(ChatReply(TOKENIZER, [], tools=tools), tokens)
    for _, text in arguments_of(deltas)[:-1]:  # the last one may be cut off
        assert isinstance(json.loads(text), dict)
    opened, closed, call, _, _ = MARKS
    outside: list[int] = []
    within = False
    for token in tokens:
        if token in (opened, closed):
            within = token == opened
        elif not within:
            outside.append(token)
    if not tools or call not in tokens:
        assert joined(deltas, "content") == TOKENIZER.decode(outside)
