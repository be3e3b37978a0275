"""Chats in Python: thoughts apart, turn ends, cuts, continued messages, keywords, event loops, a bounded context."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.errors import ContextFullError, ContextLengthError, ParameterError, TokenizerError
from geminate.grammar.compiler import JsonSchema, Lark, Regex
from geminate.loading.locate import embedded_pair

USER = [{"role": "user", "content": "Hi"}]
P = SamplingParams(max_tokens=40, temperature=0.0)
THOUGHT = 'start: <[100]> "thought\\nThe user greets me.\\n" <[101]> "Hello there!"'


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> LLM:
    return LLM(threads=1)


def copied(tmp_path: Path, **files: str | None) -> Path:
    """The embedded target with other files; None removes one."""
    target = tmp_path / "copy"
    shutil.copytree(embedded_pair()[0], target)
    for name, text in files.items():
        path = target / name.replace("__", ".")
        path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    return target


@pytest.mark.parametrize("speculation", ["off", "auto", 4])
def test_the_thought_is_apart(llm: LLM, speculation: Any) -> None:
    grammar = llm.grammars.compile(Lark(THOUGHT))
    output = llm.chat(USER, P, enable_thinking=True, grammar=grammar, speculation=speculation)
    assert (output.text, output.reasoning) == ("Hello there!", "The user greets me.\n")
    deltas = list(llm.chat(USER, P, enable_thinking=True, grammar=grammar, stream=True, speculation=speculation))
    assert "".join(d.text for d in deltas) == output.text and "".join(d.reasoning for d in deltas) == output.reasoning
    assert deltas[-1].output is not None and deltas[-1].output.token_ids == output.token_ids


def test_a_session_keeps_the_answer_alone(llm: LLM) -> None:
    session = llm.session(enable_thinking=True)
    deltas = list(session.stream("Hi", P, grammar=llm.grammars.compile(Lark(THOUGHT))))
    assert "".join(d.reasoning for d in deltas) == "The user greets me.\n"
    assert session.messages == [*USER, {"role": "assistant", "content": "Hello there!"}]


def test_a_grammar_holds_behind_a_thought_that_the_prompt_opens(tmp_path: Path, packed_cache: Path) -> None:
    text = (embedded_pair()[0] / "chat_template.jinja").read_text(encoding="utf-8")
    at = text.index("{%- if add_generation_prompt -%}")
    opening = text[:at] + "<|turn>model\n<|channel>thought\n"
    llm = LLM(copied(tmp_path, chat_template__jinja=opening), drafter="embedded", threads=1)
    for reasoning in (False, True):
        grammar = llm.grammars.compile(Regex("Sunny[.]"), reasoning=reasoning)
        output = llm.chat(USER, P, grammar=grammar, logit_bias={101: 100})
        assert (output.text, output.reasoning) == ("Sunny.", "")
    runs = [
        llm.chat(USER, P, grammar=grammar, speculation=k, temperature=1, seed=3) for k in ("off", 4, "ngram", "auto")
    ]
    assert len({tuple(run.token_ids) for run in runs}) == 1 and runs[0].reasoning
    free = llm.chat(USER, P, max_tokens=5, ignore_eos=True)
    assert free.text == "" and free.reasoning


@pytest.mark.parametrize("generation", [None, '{"eos_token_id": 1}'])
def test_turn_ends_without_the_generation_config(generation: str | None, tmp_path: Path, llm: LLM) -> None:
    other = LLM(copied(tmp_path, generation_config__json=generation), drafter=None)
    output = other.chat(USER, P)
    assert output.finish_reason == "stop" and output.text == llm.chat(USER, P).text


def test_a_cut_within_a_character(llm: LLM) -> None:
    grammar = llm.grammars.compile(Regex("hi 😀😃 bye"))
    texts = [llm.generate("x", P, grammar=grammar, max_tokens=n)[0].text for n in range(1, 14)]
    whole = "hi 😀😃 bye"
    assert texts[-1] == whole
    for text in texts:
        assert text.count("\ufffd") <= 1 and whole.startswith(text.removesuffix("\ufffd"))
    assert "hi 😀\ufffd" in texts


def test_a_final_message_is_continued(llm: LLM) -> None:
    said = [*USER, {"role": "assistant", "content": "Once upon a time"}]
    ids = llm.chat_ids(said, continue_final_message=True)
    whole = llm.chat_ids(said, add_generation_prompt=False)
    assert ids == whole[: len(ids)] and len(whole) - len(ids) == 2  # <turn|> and a line end
    assert llm.chat(said, P, continue_final_message=True).token_ids == llm.generate([ids], P)[0].token_ids
    parts = [*USER, {"role": "assistant", "content": [{"type": "text", "text": "Once upon a time"}]}]
    assert llm.chat_ids(parts, continue_final_message=True) == ids
    assert llm.chat_ids(said) == [*whole, *llm.chat_ids(USER)[-3:]]  # without it: a new turn


@pytest.mark.parametrize(
    "messages, options, words",
    [
        (USER, {}, "needs an assistant message at the end"),
        ([*USER, {"role": "assistant", "content": "x"}], {"add_generation_prompt": True}, "exclude each other"),
        ([*USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], {}, "tool calls"),
    ],
)
def test_what_cannot_be_continued(llm: LLM, messages: Any, options: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        llm.chat(messages, P, continue_final_message=True, **options)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": "x"}'}}


def test_arguments_may_be_text(llm: LLM) -> None:
    def ids(arguments: Any) -> list[int]:
        call = {**CALL, "function": {"name": "f", "arguments": arguments}}
        return llm.chat_ids([*USER, {"role": "assistant", "tool_calls": [call]}])

    assert ids('{"a": 1, "b": "x"}') == ids({"a": 1, "b": "x"})
    assert ids("") == ids({}) and ids('{"a": ') == ids({"raw": '{"a": '})


TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
}


def test_tool_calls_of_an_output(llm: LLM) -> None:
    grammar = llm.grammars.compile(Lark('start: "So:" <[48]> "call:f{a:" <[52]> "x" <[52]> "}" <[49]>'))
    output = llm.chat(USER, P, tools=[TOOL], grammar=grammar)
    [call] = output.tool_calls
    assert output.text == "So:" and call["function"] == {"name": "f", "arguments": '{"a": "x"}'}
    again = [*USER, {"role": "assistant", "content": output.text, "tool_calls": output.tool_calls}]
    assert llm.chat_ids(again)
    cut = llm.chat(USER, P, tools=[TOOL], grammar=grammar, max_tokens=len(output.token_ids) - 4)
    assert cut.text == "So:" and not any(c["function"]["arguments"].endswith("}") for c in cut.tool_calls)


def test_sampling_keywords(llm: LLM) -> None:
    [output] = llm.generate("Once upon a time", max_tokens=5, temperature=0)
    assert len(output.token_ids) == 5
    [shorter] = llm.generate("Once upon a time", P, max_tokens=3)  # keywords go before params
    assert shorter.token_ids == output.token_ids[:3]
    *_, last = llm.stream("Once upon a time", max_tokens=4, temperature=0)
    assert last.output is not None and last.output.token_ids == output.token_ids[:4]
    assert llm.chat(USER, max_tokens=2, temperature=0).token_ids == llm.chat(USER, P).token_ids[:2]
    with pytest.raises(TypeError, match=r"unknown argument 'max_new_tokens'; the sampling arguments are max_tokens"):
        llm.generate("x", max_new_tokens=3)
    with pytest.raises(ParameterError, match="max_tokens must be"):
        llm.generate("x", max_tokens=0)


@pytest.mark.parametrize("prompt", [b"Hi", bytearray(b"Hi"), memoryview(b"Hi"), [b"Hi"]])
def test_bytes_are_no_prompt(llm: LLM, prompt: Any) -> None:
    with pytest.raises(TypeError, match="decode it first"):
        llm.generate(prompt, P)


def test_reprs(llm: LLM) -> None:
    assert repr(llm) == "LLM('embedded', drafter='drafter', weights='int8')"
    assert repr(llm.chat(USER, P)) == """Output(text="Hi!", tokens=3, finish_reason='stop')"""
    session = llm.session(system="Be short.")
    assert repr(session) == "ChatSession(1 messages, 9 of 2048 tokens)"


def test_event_loops(llm: LLM) -> None:
    want = llm.generate(["Once upon a time", "The river"], P)
    chat = llm.chat(USER, P)

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(tick())
        outputs = await llm.agenerate(["Once upon a time", "The river"], P)
        assert [o.token_ids for o in outputs] == [o.token_ids for o in want]
        deltas = [delta async for delta in llm.astream("Once upon a time", P)]
        assert "".join(d.text for d in deltas) == want[0].text and deltas[-1].output is not None
        assert (await llm.achat(USER, P)).text == chat.text
        assert "".join([d.text async for d in await llm.achat(USER, P, stream=True)]) == chat.text
        many = await asyncio.gather(*(llm.agenerate("Once upon a time", P) for _ in range(20)))
        assert all(one[0].token_ids == want[0].token_ids for one in many)
        assert ticks > 10  # the loop went on
        ticking.cancel()
        with pytest.raises(ParameterError):
            await llm.agenerate("x", max_tokens=0)
        with pytest.raises(ContextLengthError):
            await llm.agenerate([[2] * 5000], P)

    asyncio.run(main())
    assert not llm.engine.running


def test_cancelling_a_task_ends_its_generation(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = SamplingParams(max_tokens=2000, temperature=0.0, ignore_eos=True)

    async def idle() -> None:
        """What was cancelled leaves before the next step."""
        while not llm.service.idle or llm.engine.running:
            await asyncio.sleep(0.001)

    async def main() -> None:
        task = asyncio.ensure_future(llm.agenerate(["Once", "The"], endless))
        while not llm.engine.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle()
        deltas = llm.astream("Once", endless)
        await anext(deltas)
        await deltas.aclose()
        await idle()

    steps, step = 0, llm.engine.step

    def counted() -> Any:
        nonlocal steps
        steps += 1
        return step()

    monkeypatch.setattr(llm.engine, "step", counted)
    asyncio.run(main())
    assert steps < 600  # of 4,000 and more
    assert llm.generate("Once", P)


@pytest.fixture(scope="module")
def small(packed_cache: Path) -> LLM:
    return LLM(threads=1, max_context=120)


def test_a_bounded_context(small: LLM) -> None:
    assert small.context_length == 120 == small.config.max_position_embeddings
    [output] = small.generate("Once upon a time", temperature=0, max_tokens=500, ignore_eos=True)
    assert output.finish_reason == "length"
    assert len(output.prompt_token_ids) + len(output.token_ids) in (120, 121)
    with pytest.raises(ContextLengthError, match="the context holds 120"):
        small.generate([[2] * 120])


@pytest.mark.parametrize("limit", [0, 1, -5, True, 2.5, "9"])
def test_odd_bounds(limit: Any) -> None:
    with pytest.raises(ParameterError, match="max_context must be"):
        LLM(max_context=limit)


def test_a_bound_above_the_models(packed_cache: Path) -> None:
    said: list[str] = []
    assert LLM(threads=1, max_context=10**6, on_message=said.append).context_length == 2048
    assert any("remain the limit" in text for text in said)


def test_a_full_session(small: LLM) -> None:
    session = small.session(system="Be short.")
    for _ in range(20):
        before = list(session.messages)
        try:
            list(session.stream("Tell me about the sea.", P, max_tokens=12))
        except ContextFullError as error:
            assert error.limit == 120 <= error.used
            assert f"has {error.used} tokens and the context holds 120" in str(error)
            assert session.messages == before
            break
    else:
        raise AssertionError("the context never filled")
    used = session.context_used
    assert used < 120 == session.context_length
    dropped = session.compact()
    assert dropped and dropped % 2 == 0 and session.context_used <= 60 < used
    assert session.system == "Be short." and session.messages[1]["role"] == "user"
    assert session.messages[1:] == before[1 + dropped :]
    list(session.stream("And the wind?", P, max_tokens=4))
    assert session.compact(keep=1) > 0 and len(session.messages) == 3  # the last turn stays
    assert session.compact() == 0


def test_sessions_are_saved_and_loaded(llm: LLM) -> None:
    one = llm.session(system="Be short.")
    list(one.stream("What is 12 + 7?", P))
    two = llm.session(messages=json.loads(json.dumps(one.messages)))
    assert two.messages == one.messages and two.system == "Be short."
    first = [d.text for d in one.stream("Why?", P)]
    assert "".join(first) == "".join(d.text for d in two.stream("Why?", P))
    assert "".join(d.text for d in two.retry(P)) == "".join(first) and two.messages == one.messages
    two.system = None
    assert two.messages == one.messages[1:] and two.system is None
    two.system = "Be long."
    assert two.messages[0] == {"role": "system", "content": "Be long."}
    for bad in ([], [{"role": "nobody", "content": "x"}], "x"):
        with pytest.raises(ParameterError):
            two.load(bad)  # type: ignore[arg-type]
    assert len(two.messages) == 5
    with pytest.raises(ParameterError, match="nothing was said yet"):
        next(llm.session().retry(P))
    with pytest.raises(ParameterError, match="not with both"):
        llm.session(system="x", messages=USER)


def test_a_refused_turn_leaves_the_session_as_it_was(llm: LLM) -> None:
    session = llm.session()
    with pytest.raises(ParameterError):
        list(session.stream("Hi", max_tokens=0))
    assert session.messages == []


def test_a_chat_with_a_schema(llm: LLM) -> None:
    grammar = llm.grammars.compile(JsonSchema({"const": {"a": 1}}), reasoning=True)
    assert json.loads(llm.chat(USER, P, enable_thinking=True, grammar=grammar).text) == {"a": 1}


def test_no_template(tmp_path: Path, packed_cache: Path) -> None:
    bare = LLM(copied(tmp_path, chat_template__jinja=None), drafter=None)
    with pytest.raises(TokenizerError, match="no chat template"):
        bare.chat(USER, P)
