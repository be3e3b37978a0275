"""What crosses the engine's border is plain data, and a request that is continued elsewhere goes on without a seam."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.errors import ParameterError
from geminate.grammar.compiler import JsonSchema

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 30}, "n": {"type": "integer", "maximum": 9}},
    "required": ["title", "n"],
    "additionalProperties": False,
}


def events_of(llm: LLM, request: EngineRequest) -> list[EngineEvent]:
    engine = llm.new_engine()
    engine.add(request)
    return engine.run()


def tokens_and_logits(events: list[EngineEvent]) -> tuple[list[int], list[bytes]]:
    ids = [token for event in events for token in event.token_ids]
    rows = [row.tobytes() for event in events if event.logits is not None for row in event.logits]
    assert len(ids) == len(rows)
    return ids, rows


def test_requests_and_events_leave_the_process() -> None:
    llm = LLM(threads=1)
    params = SamplingParams(max_tokens=12, seed=3, logprobs=2, stop=["zebra"], logit_bias={5: 1.0})
    request = llm.request(
        llm.encode("Once"), params, grammar=llm.grammars.compile(JsonSchema(SCHEMA)), want_logits=True
    )
    copy = pickle.loads(pickle.dumps(request))
    assert copy == request
    mine, theirs = events_of(llm, request), events_of(llm, copy)
    assert tokens_and_logits(mine) == tokens_and_logits(theirs)
    back = pickle.loads(pickle.dumps(mine))
    assert [event.token_ids for event in back] == [event.token_ids for event in mine]
    assert back[-1].stats == mine[-1].stats and np.array_equal(back[0].logits, mine[0].logits)
    failed = EngineEvent(request_id="x", finish_reason="abort", error=ParameterError("why"))
    assert str(pickle.loads(pickle.dumps(failed)).error) == "why"


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("speculation", ["off", 3, "auto"])
def test_continued_at_every_token(temperature: float, speculation: int | str) -> None:
    llm = LLM(threads=1)
    params = SamplingParams(
        max_tokens=24, temperature=temperature, seed=11, ignore_eos=True, repetition_penalty=1.3, stop=["never there"]
    )
    request = llm.request(llm.encode("Once upon a time"), params, speculation=speculation, want_logits=True)
    ids, rows = tokens_and_logits(events_of(llm, request))
    for cut in range(1, len(ids)):
        rest = tokens_and_logits(events_of(llm, request.continued(ids[:cut])))
        assert rest == (ids[cut:], rows[cut:]), cut
    with pytest.raises(ParameterError, match="nothing is left"):
        events_of(llm, request.continued(ids))


def test_continued_under_a_grammar_and_up_to_a_stop_string() -> None:
    llm = LLM(threads=1)
    grammar = llm.grammars.compile(JsonSchema(SCHEMA))
    request = llm.request(
        llm.encode("A story."), SamplingParams(max_tokens=80, temperature=1.0, seed=4), grammar=grammar
    )
    ids = [token for event in events_of(llm, request) for token in event.token_ids]
    assert llm.tokenizer is not None and set(json.loads(llm.tokenizer.decode(ids, skip_special=True))) == {"title", "n"}
    for cut in (1, 5, len(ids) - 1):
        rest = [t for event in events_of(llm, request.continued(ids[:cut])) for t in event.token_ids]
        assert rest == ids[cut:]
    out = llm.generate("Once upon a time", SamplingParams(max_tokens=60, temperature=0.0))[0]
    word = out.text.split()[6]
    stopping = llm.request(llm.encode("Once upon a time"), SamplingParams(max_tokens=60, temperature=0.0, stop=[word]))
    whole = events_of(llm, stopping)
    ids = [token for event in whole for token in event.token_ids]
    assert whole[-1].finish_reason == "stop" and len(ids) < 60
    last = events_of(llm, stopping.continued(ids[:-1]))  # the string began in what was emitted already
    assert [t for event in last for t in event.token_ids] == ids[-1:] and last[-1].finish_reason == "stop"


def test_continued_on_every_size(models: dict[str, Path]) -> None:
    for size in models:
        llm = LLM(models[size], threads=1)
        params = SamplingParams(max_tokens=40, temperature=0.8, seed=2, ignore_eos=True)
        request = llm.request(list(range(5, 40)), params, speculation=2, want_logits=True)
        ids, rows = tokens_and_logits(events_of(llm, request))
        for cut in (1, 17, 39):
            assert tokens_and_logits(events_of(llm, request.continued(ids[:cut]))) == (ids[cut:], rows[cut:])
