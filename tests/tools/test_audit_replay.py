"""Replays: the same answers are found to be the same, and any other token is named with its line and place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.audit.fingerprints import Fingerprints, fingerprints
from geminate.audit.lines import Line, read_line, sealed
from geminate.audit.runs import Past, Run, UnreplayableError, ids_digest
from geminate.engine.messages import EngineRequest
from geminate.grammar.specs import JsonSchema
from geminate.kv.prefix_tree import ContentSpan
from geminate.tools.replay import Known, Replayer, Tally

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> Iterator[LLM]:
    with LLM(threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def own(llm: LLM) -> Fingerprints:
    return fingerprints(llm)


def run_of(llm: LLM, request: EngineRequest, *, most: int | None = None) -> Run:
    """The run of a request; cancelled after so many events."""
    run = Run(request)
    llm.service.submit(request)
    for count, event in enumerate(llm.service.events(request.request_id)):
        if count == most:
            break
        run.take(event)
    return run


def line_of(own: Fingerprints, *runs: dict[str, Any], seq: int = 7, **more: Any) -> Line:
    record = {"type": "request", "weights": own.weights, "program": own.program, "runs": list(runs), **more}
    return read_line(sealed(record, seq, "0" * 64)[0][:-1])


def replayed(llm: LLM, own: Fingerprints, line: Line, **options: Any) -> Tally:
    replayer = Replayer(llm, own, **options)
    replayer.replay(line)
    return replayer.tally


def requests(llm: LLM) -> Iterator[EngineRequest]:
    params = SamplingParams(max_tokens=24, temperature=1.1, seed=11)
    yield llm.request(llm.encode("Once upon a time"), params, temperature=0.0)
    yield llm.request(llm.encode("Once upon a time"), params, top_p=0.7, min_p=0.05, ignore_eos=True)
    yield llm.request(llm.encode("The dog"), params, top_k=20, repetition_penalty=1.3, presence_penalty=0.5)
    yield llm.request(llm.encode("The dog"), params, logit_bias={7: float("-inf"), 9: 2.5}, stop=[" a", "and"])
    yield llm.chat_request([{"role": "user", "content": "Hello"}], params, stop=["x"])
    grammar = llm.grammars.compile(JsonSchema(SCHEMA))
    yield llm.chat_request([{"role": "user", "content": "A number."}], params, grammar=grammar)


@pytest.mark.parametrize("speculation", [None, "off", "ngram", 4, "auto"])
def test_all_kinds_of_requests_replay(speculation: Any, llm: LLM, own: Fingerprints) -> None:
    runs = [run_of(llm, request).record(with_ids=with_ids) for request in requests(llm) for with_ids in (True, False)]
    known = Known()
    for run in runs[::2]:
        known.prompts[run["prompt"]["sha256"]] = run["prompt"]["ids"]
        if "grammar" in run:
            known.grammars[run["grammar"]["sha256"]] = run["grammar"]["source"]
    replayer = Replayer(llm, own, speculation=speculation, known=known)
    for run in runs:
        replayer.replay(line_of(own, json.loads(json.dumps(run))))
    tally = replayer.tally
    assert (tally.same, tally.differ, tally.skipped) == (12, 0, {}) and tally.tokens > 100


def test_several_choices_and_prompts(llm: LLM, own: Fingerprints) -> None:
    from dataclasses import replace

    asked = llm.request(llm.encode("Once"), SamplingParams(max_tokens=16, temperature=1.3, seed=2, ignore_eos=True))
    first = run_of(llm, replace(asked, n=3)).record(with_ids=True)
    second = run_of(llm, replace(asked, request_id="b", choice=5, n=2)).record(with_ids=True)
    assert len({json.dumps(choice["ids"]) for run in (first, second) for choice in run["choices"]}) == 5
    assert replayed(llm, own, line_of(own, first, second)).same == 1
    # One token of one choice of the second prompt.
    second["choices"][1] = changed(second["choices"][1], 9)
    tally = replayed(llm, own, line_of(own, first, second))
    [found] = tally.differences
    assert (tally.differ, found.seq, found.run, found.choice, found.token) == (1, 7, 1, 1, 9)
    assert found.logged != found.computed and "line 7, answer 2.2: token 9 is" in str(found)


def changed(choice: dict[str, Any], at: int) -> dict[str, Any]:
    ids = [*choice["ids"][:at], (choice["ids"][at] + 1) % 300, *choice["ids"][at + 1 :]]
    return {**choice, "ids": ids, "sha256": ids_digest(ids)}


@pytest.mark.parametrize("at", [0, 1, 10, 23])
@pytest.mark.parametrize("speculation", ["off", 5])
def test_any_other_token_is_named(at: int, speculation: Any, llm: LLM, own: Fingerprints) -> None:
    asked = llm.request(llm.encode("Once"), SamplingParams(max_tokens=24, temperature=1.0, seed=2, ignore_eos=True))
    run = run_of(llm, asked).record(with_ids=True)
    right = run["choices"][0]["ids"][at]
    run["choices"][0] = changed(run["choices"][0], at)
    [found] = replayed(llm, own, line_of(own, run), speculation=speculation).differences
    assert (found.token, found.computed) == (at, right)


@pytest.mark.parametrize(
    ("change", "token"),
    [
        (lambda run: run["sampling"].update(seed=3), True),
        (lambda run: run["sampling"].update(temperature=1.4), True),
        (lambda run: run["choices"][0].update(finish="stop"), True),
        (lambda run: run["choices"][0].update(short(run["choices"][0], 5)), True),
        (lambda run: run.update(first_choice=1), True),
    ],
)
def test_other_sampling_and_lengths_differ(
    change: Callable[[dict[str, Any]], None], token: bool, llm: LLM, own: Fingerprints
) -> None:
    asked = llm.request(llm.encode("Once"), SamplingParams(max_tokens=24, temperature=1.0, seed=2, ignore_eos=True))
    run = run_of(llm, asked).record(with_ids=True)
    change(run)
    tally = replayed(llm, own, line_of(own, run))
    assert (tally.same, tally.differ) == (0, 1) and (tally.differences[0].token is not None) == token


def short(choice: dict[str, Any], count: int) -> dict[str, Any]:
    ids = choice["ids"][:count]
    return {"ids": ids, "tokens": count, "sha256": ids_digest(ids)}


def test_a_difference_in_hashes_alone(llm: LLM, own: Fingerprints) -> None:
    asked = llm.request(llm.encode("Once"), SamplingParams(max_tokens=8, temperature=1.0, seed=2, ignore_eos=True))
    run = run_of(llm, asked).record(with_ids=True)
    run["choices"][0] = changed(run["choices"][0], 3)
    del run["choices"][0]["ids"]
    [found] = replayed(llm, own, line_of(own, run)).differences
    assert found.token is None and "hash alone" in str(found)


def test_cancelled_answers_are_compared_as_far_as_they_went(llm: LLM, own: Fingerprints) -> None:
    asked = llm.request(llm.encode("Once"), SamplingParams(max_tokens=4000, temperature=1.0, seed=2, ignore_eos=True))
    run = run_of(llm, asked, most=6).record(with_ids=True)
    assert run["choices"][0]["finish"] == "abort" and 6 <= run["choices"][0]["tokens"] < 200
    tally = replayed(llm, own, line_of(own, run))
    assert tally.same == 1 and tally.tokens == run["choices"][0]["tokens"]
    run["choices"][0] = changed(run["choices"][0], 4)
    assert replayed(llm, own, line_of(own, run)).differences[0].token == 4


def test_what_cannot_be_replayed_has_its_reason(llm: LLM, own: Fingerprints) -> None:
    asked = llm.request(llm.encode("Once"), SamplingParams(max_tokens=4, seed=2))
    bare, run = (run_of(llm, asked).record(with_ids=with_ids) for with_ids in (False, True))
    never = Run(asked).record(with_ids=True)
    media = Run(llm.request(llm.encode("Once")))
    media.request = EngineRequest(
        request_id="m", prompt_ids=[2], sampling=asked.sampling, contents=(ContentSpan(start=0, stop=1, digest=b"x"),)
    )
    lines = {
        "other weights": line_of(own, run, weights="0" * 64),
        "another program, whose facts are not in the log": line_of(own, run, program="0" * 64),
        "the request was refused before anything was generated": line_of(own),
        "it ended before its first token": line_of(own, never),
        "its prompt is not in the log (--audit-content ids), nor in --requests": line_of(own, bare),
        "its images or sounds are not in the log": line_of(own, media.record(with_ids=True)),
        "the line is not as this version writes it": line_of(own, {"prompt": 3}),
        "its prompt or grammar does not fit the hash beside it": line_of(own, run | {"prompt": {
            **run["prompt"], "ids": [2, 3, 4]}}),
        "its token ids do not fit the hash beside them": line_of(own, run | {"choices": [{
            **run["choices"][0], "sha256": "0" * 64}]}),
    }  # fmt: skip
    for reason, line in lines.items():
        tally = replayed(llm, own, line)
        assert tally.skipped == {reason: 1} and not (tally.same or tally.differ), reason
    assert replayed(llm, own, lines["other weights"], force=True).same == 1


@pytest.mark.parametrize("name", ["arithmetic", "kv", "backend", "config", "tokenizer"])
def test_facts_that_change_answers_are_compared(name: str, llm: LLM, own: Fingerprints) -> None:
    run = run_of(llm, llm.request(llm.encode("Once"), SamplingParams(max_tokens=4, seed=2))).record(with_ids=True)
    for other, same in ((name, 0), ("version", 1), ("template", 1)):
        replayer = Replayer(llm, own)
        start = {"type": "start", "program": "1" * 64, "facts": {**own.facts, other: "another"}}
        replayer.learn(read_line(sealed(start, 0, "0" * 64)[0][:-1]))
        replayer.replay(line_of(own, run, program="1" * 64))
        assert replayer.tally.same == same and sum(replayer.tally.skipped.values()) == 1 - same


@pytest.mark.parametrize("bad", [None, 3, {}, {"prompt": {"tokens": 1, "sha256": "x"}}, [], "text"])
def test_forged_runs_are_refused(bad: Any) -> None:
    with pytest.raises(UnreplayableError):
        Past(bad)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("seed", "x"), ("surprise", 1), ("max_tokens", 0), ("logit_bias", [[1]]), ("stop", [""])],
)
def test_forged_sampling_is_refused(name: str, value: Any, llm: LLM, own: Fingerprints) -> None:
    run = run_of(llm, llm.request(llm.encode("Once"), SamplingParams(max_tokens=4, seed=2))).record(with_ids=True)
    run["sampling"][name] = value
    [reason] = replayed(llm, own, line_of(own, run)).skipped
    assert "its parameters are not as this version has them" in reason


def test_fingerprints_follow_what_changes_answers(own: Fingerprints, packed_cache: Path) -> None:
    with LLM(threads=2, drafter=None, max_context=100) as other:
        same = fingerprints(other)
    assert (same.weights, same.program) == (own.weights, own.program)
    with LLM(threads=1, weights="int4") as other:
        assert fingerprints(other).weights != own.weights
    with LLM(threads=1, kv="int8") as other:
        found = fingerprints(other)
        assert found.weights == own.weights and found.program != own.program
