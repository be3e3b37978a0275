"""Conversations reuse the cache; an interrupted answer leaves a session that goes on as if it had ended there."""

from __future__ import annotations

import pytest

from geminate import LLM, SamplingParams
from geminate.errors import ParameterError

PARAMS = SamplingParams(max_tokens=24, temperature=0.8, seed=5)


def say(session, text: str) -> str:  # type: ignore[no-untyped-def]
    return "".join(delta.text for delta in session.stream(text, PARAMS))


def test_turns_equal_a_cold_start() -> None:
    llm = LLM(threads=1)
    session = llm.session(system="Be short.")
    reused = []
    for question in ("Tell me a short story.", "Why do you think that?", "What is 3 + 4?"):
        *_, last = session.stream(question, PARAMS)
        assert last.output is not None
        reused.append(last.output.stats.reused_tokens)
        cold = llm.chat(session.messages[:-1], PARAMS)
        assert cold.token_ids == last.output.token_ids
    assert reused[0] == 0 and reused[1] > 10 and reused[2] > reused[1]
    session.reset()
    assert [m["role"] for m in session.messages] == ["system"]


@pytest.mark.parametrize("when", ["before the pass", "inside", "after the commit"])
def test_interrupted_answer(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(threads=1)
    session = llm.session()
    real_step, real_commit, calls = llm.engine.step, llm.engine._commit, [0]

    def step():  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] == 4 and when == "before the pass":
            raise KeyboardInterrupt
        out = real_step()
        if calls[0] == 4 and when == "after the commit":
            raise KeyboardInterrupt
        return out

    def commit(*args):  # type: ignore[no-untyped-def]
        if calls[0] == 4 and when == "inside":
            raise KeyboardInterrupt  # the cache holds rows that were never rolled back
        return real_commit(*args)

    monkeypatch.setattr(llm.engine, "step", step)
    monkeypatch.setattr(llm.engine, "_commit", commit)
    with pytest.raises(KeyboardInterrupt):
        say(session, "Tell me a short story.")
    assert not llm.engine.running
    monkeypatch.undo()
    partial = session.messages[-1]
    assert partial["role"] == "assistant" and partial["content"]
    answer = say(session, "Why do you think that?")
    assert answer == llm.chat(session.messages[:-1], PARAMS).text


def test_closing_the_iterator_ends_the_generation() -> None:
    llm = LLM(threads=1)
    stream = llm.stream("Once upon a time", PARAMS)
    next(stream)
    stream.close()
    assert not llm.engine.running


def test_output_fields() -> None:
    llm = LLM(threads=1)
    ids = llm.encode("Once upon a time")
    greedy = SamplingParams(max_tokens=16, temperature=0.0, seed=7, logprobs=2, ignore_eos=True)
    outs = llm.generate(["Once upon a time", ids], greedy)
    assert outs[0].token_ids == outs[1].token_ids and outs[0].text == outs[1].text
    assert outs[0].finish_reason == "length" and outs[0].seed == 7
    assert len(outs[0].logprobs) == 16 and all(lp.logprob <= 0 for lp in outs[0].logprobs)
    stats = outs[0].stats
    assert stats.generated_tokens == 16 == stats.rounds + stats.accepted
    assert stats.prefill_s > 0 and stats.decode_s > 0
    stop = llm.generate(ids, SamplingParams(max_tokens=40, temperature=0.0, stop_token_ids=[outs[0].token_ids[3]]))[0]
    assert stop.finish_reason == "stop" and len(stop.token_ids) <= 4


def test_one_answer_at_a_time() -> None:
    session = LLM(threads=1).session()
    first = session.stream("Tell me a story", max_tokens=8)
    next(first)
    with pytest.raises(ParameterError, match="answering already"):
        list(session.stream("Hi", max_tokens=4))
    list(first)
    list(session.stream("Hi", max_tokens=4))
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2
