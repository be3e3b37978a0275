"""A stream that loses its replica, before any of its events, is the stream of an undisturbed run."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.engine.messages import EngineRequest
from geminate.errors import EngineFailedError, ParameterError, RequestTimeoutError
from geminate.fleet import replica
from geminate.fleet.messages import Batch, Failure
from geminate.grammar.compiler import JsonSchema, ToolCalls
from support.fleet import HANG, FakeFleet, collect, outcome

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 30}, "n": {"type": "integer", "maximum": 9}},
    "required": ["title", "n"],
    "additionalProperties": False,
}
NUMBERS = itertools.count()
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "logit_bias": {300: 2.0}},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4, "temperature": 0.7},
    "logprobs": {"logprobs": 3, "temperature": 1.0},
}


@pytest.fixture(scope="module")
def llms() -> list[LLM]:
    return [LLM(threads=1), LLM(threads=1)]


@pytest.fixture(scope="module")
def fleet(llms: list[LLM]) -> Iterator[FakeFleet]:
    made = FakeFleet(llms, retries=1000, stall_s=0.3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replica, "BEAT_S", 0.05)
        yield made
    made.close()


@pytest.fixture(autouse=True)
def undisturbed(fleet: FakeFleet) -> None:
    fleet.reset()


def job(llm: LLM, params: dict[str, Any], **more: Any) -> EngineRequest:
    sampling = SamplingParams(**{"max_tokens": 16, "seed": 5, "ignore_eos": True, **params})
    ids = llm.encode(more.pop("text", "Once upon a time"))
    return EngineRequest(request_id=f"q{next(NUMBERS)}", prompt_ids=ids, sampling=llm.resolve(sampling), **more)


def run(fleet: FakeFleet, request: EngineRequest) -> dict[int, Any]:
    again = dataclasses.replace(request, request_id=f"{request.request_id}-{next(NUMBERS)}")
    events = asyncio.run(collect(fleet.service, again))
    assert fleet.service.idle
    return {choice: outcome(of_choice) for choice, of_choice in events.items()}


def lost_once(fleet: FakeFleet, request: EngineRequest) -> None:
    """Lose the replica before every single event in turn, and before all of them."""
    fleet.reset()
    whole = run(fleet, request)
    count = fleet.link.delivered
    assert count > 1 and not fleet.losses
    for cut in range(1, count + 1):
        fleet.reset()
        fleet.link.fate = lambda number, cut=cut: "killed" if number == cut else None  # type: ignore[misc]
        assert run(fleet, request) == whole, cut
        assert len(fleet.losses) == (fleet.link.delivered >= cut)  # auto drafts differently each time
    fleet.reset()
    fleet.link.fate = lambda number: "killed" if number % 2 else None
    assert run(fleet, request) == whole
    assert len(fleet.losses) >= count // 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("speculation", ["auto", 0, 3])
def test_sampling(fleet: FakeFleet, llms: list[LLM], kind: str, speculation: Any) -> None:
    lost_once(fleet, job(llms[0], KINDS[kind], speculation=speculation))


def test_another_answer_would_be_noticed(fleet: FakeFleet, llms: list[LLM]) -> None:
    """The comparison can fail: a continuation under another seed is not the same stream."""
    request = job(llms[0], {"temperature": 1.0})
    whole = run(fleet, request)
    other = dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, seed=6))
    assert run(fleet, other) != whole


def test_schemas_tools_and_stop_strings(fleet: FakeFleet, llms: list[LLM]) -> None:
    grammars = llms[0].grammars
    params = {"temperature": 1.0, "seed": 4, "max_tokens": 60, "ignore_eos": False}
    lost_once(fleet, job(llms[0], params, grammar=grammars.compile(JsonSchema(SCHEMA)).source, reply="chat"))
    tools = grammars.compile(ToolCalls(tools=[("get_weather", SCHEMA)], required=True))
    lost_once(fleet, job(llms[0], params, grammar=tools.source, reply="tools"))
    text = llms[0].generate("Once upon a time", SamplingParams(max_tokens=24, temperature=0.0))[0].text
    lost_once(fleet, job(llms[0], {"temperature": 0.0, "max_tokens": 30, "stop": [text.split()[4]]}))


def test_several_choices(fleet: FakeFleet, llms: list[LLM]) -> None:
    request = job(llms[0], {"temperature": 1.0, "max_tokens": 8}, n=3, prompt_logprobs=1)
    whole = run(fleet, request)
    assert len({tuple(ids) for ids, *_ in whole.values()}) == 3
    count = fleet.link.delivered
    for cut in range(1, count + 1):
        fleet.reset()
        fleet.link.fate = lambda number, cut=cut: "killed" if number == cut else None  # type: ignore[misc]
        assert run(fleet, request) == whole, cut


def test_prompt_logprobs_come_once(fleet: FakeFleet, llms: list[LLM]) -> None:
    request = job(llms[0], {"max_tokens": 6}, prompt_logprobs=1)
    for cut in (1, 2, 4):
        fleet.reset()
        fleet.link.fate = lambda number, cut=cut: "killed" if number == cut else None  # type: ignore[misc]
        again = dataclasses.replace(request, request_id=f"p{cut}")
        events = asyncio.run(collect(fleet.service, again))[0]
        assert [len(event.prompt_logprobs) for event in events if event.prompt_logprobs] == [
            len(request.prompt_ids) - 1
        ]


def test_statistics_count_all_replicas(fleet: FakeFleet, llms: list[LLM]) -> None:
    request = job(llms[0], {"max_tokens": 12, "temperature": 0.0}, speculation=2)
    fleet.link.fate = lambda number: "killed" if number in (2, 4) else None
    events = asyncio.run(collect(fleet.service, request))[0]
    stats = events[-1].stats
    assert stats is not None and len(fleet.losses) == 2
    assert stats.generated_tokens == 12 == sum(len(event.token_ids) for event in events)
    assert stats.rounds == len(events) and stats.drafted == sum(event.drafted for event in events)
    assert stats.accepted == sum(event.accepted for event in events) == sum(stats.accepted_per_position)
    assert sum(stats.draft_lengths.values()) == stats.rounds and stats.prompt_tokens == len(request.prompt_ids)


def test_silence_counts_as_death(fleet: FakeFleet, llms: list[LLM]) -> None:
    request = job(llms[0], {})
    whole = run(fleet, request)
    fleet.reset()
    fleet.link.fate = lambda number: HANG if number == 3 else None
    assert run(fleet, request) == whole
    assert [loss.reason for loss in fleet.losses] == ["it was silent for 0.3 s"]
    (_, first), (rest, second) = fleet.link.opened
    assert first != second and len(rest.emitted_ids) >= 2
    fleet.reset()
    run(fleet, request)
    assert fleet.link.opened[0][1] == second  # the silent one gets nothing while there is another
    fleet.board.update({})
    fleet.board.update(dict.fromkeys(fleet.engines))


@pytest.mark.parametrize("what", ["again", "ahead"])
def test_tokens_come_exactly_once(fleet: FakeFleet, llms: list[LLM], what: str) -> None:
    """A replica that repeats itself, or leaves tokens out, is not believed."""
    request = job(llms[0], {"temperature": 0.0}, speculation=0)
    whole = run(fleet, request)
    fleet.reset()
    seen: list[Batch] = []

    def forged(batch: Batch) -> Batch:
        seen.append(batch)
        if len(seen) != 4:
            return batch
        events = (*seen[2].events, *batch.events) if what == "again" else ()
        events = events or (dataclasses.replace(batch.events[0], position=batch.events[0].position + 1),)
        return dataclasses.replace(batch, events=events)

    fleet.link.forged = forged
    assert run(fleet, request) == whole
    assert len(fleet.losses) == 1 and "where" in fleet.losses[0].reason


def test_other_bits_are_not_continued(fleet: FakeFleet, llms: list[LLM]) -> None:
    request = job(llms[0], {})
    whole = run(fleet, request)
    fleet.reset()
    fleet.link.fate = lambda number: "killed" if number == 3 else None
    first = fleet.link.board.order(request, list(fleet.engines), ())[0]
    try:
        for name, engine in fleet.engines.items():
            engine.proof = "same" if name == first else "other"
        made = run(fleet, request)
    finally:
        for engine in fleet.engines.values():
            engine.proof = "same"
    assert made == whole
    if fleet.link.opened[0][1] == first:
        assert "other bits" in fleet.losses[1].reason and fleet.link.opened[-1][1] == first


def test_retries_are_bounded(llms: list[LLM]) -> None:
    fleet = FakeFleet(llms, retries=2, stall_s=5)
    try:
        fleet.link.fate = lambda number: "killed"
        with pytest.raises(EngineFailedError, match="has lost 3 replicas, the last one because killed"):
            run(fleet, job(llms[0], {}))
        assert [loss.again for loss in fleet.losses] == [True, True, False]
        assert fleet.service.idle and len(fleet.link.closed) == 3
    finally:
        fleet.close()


def test_errors_of_the_request_are_not_retried(fleet: FakeFleet, llms: list[LLM]) -> None:
    with pytest.raises(ParameterError, match="grammar"):
        run(fleet, job(llms[0], {}, grammar="nonsense"))
    assert len(fleet.link.opened) == 1 and not fleet.losses


def test_failed_passes_are_retried_elsewhere(fleet: FakeFleet, llms: list[LLM]) -> None:
    request = job(llms[0], {})
    whole = run(fleet, request)
    fleet.reset()
    failure = Failure.of(EngineFailedError("a forward pass failed"))
    count = itertools.count()
    fleet.link.forged = lambda b: Batch(replica=b.replica, failure=failure) if next(count) == 2 else b
    assert run(fleet, request) == whole
    assert [loss.reason for loss in fleet.losses] == ["a forward pass failed"]


def test_time_limits_hold_across_replicas(fleet: FakeFleet, llms: list[LLM]) -> None:
    fleet.link.fate = lambda number: HANG
    with pytest.raises(RequestTimeoutError, match=r"longer than the 0\.7 s"):
        run(fleet, job(llms[0], {}, timeout_s=0.7))
    assert len(fleet.losses) == 2


def test_cancelling_frees_the_replica(fleet: FakeFleet, llms: list[LLM]) -> None:
    async def main() -> None:
        from geminate.engine.client import AsyncEvents

        stream = AsyncEvents(fleet.service, job(llms[0], {"max_tokens": 400}))
        async for _ in stream.batches():
            break
        stream.cancel()
        for _ in range(200):
            if fleet.service.idle and all(engine.service.idle for engine in fleet.engines.values()):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the request goes on")

    asyncio.run(main())
    assert fleet.service.snapshot().running == 0
