"""Turns and places are shared among clients; a large request does not hold up small ones, nor wait for ever."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from geminate import LLM, SamplingParams
from geminate.engine import admission
from geminate.engine.admission import check_place
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest
from geminate.engine.sequence import Sequence
from geminate.engine.service import EngineService
from geminate.errors import QueueFullError
from geminate.kv.budget import KVBudget

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def llm(packed_cache: object) -> Iterator[LLM]:
    with LLM(threads=1) as made:
        yield made


def request(llm: LLM, client: str, tokens: int = 8) -> EngineRequest:
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return EngineRequest(
        request_id=f"r{next(NUMBERS)}", prompt_ids=llm.encode("Once"), sampling=llm.resolve(params), client=client
    )


def started(engine: Engine, sequences: list[Sequence]) -> list[Sequence]:
    """Sequences in the order in which they began."""
    order: list[Sequence] = []
    while engine.running or engine.waiting:
        engine.step()
        order += [s for s in sequences if s.begun and s not in order]
    return order


def test_clients_take_turns(llm: LLM) -> None:
    engine = llm.new_engine(max_running=2)
    crowd = [engine.add(request(llm, "crowd")) for _ in range(6)]
    late = engine.add(request(llm, "late"))
    assert started(engine, [*crowd, late]).index(late) <= 2


def test_clients_take_turns_where_one_runs_at_a_time(llm: LLM) -> None:
    engine = llm.new_engine(max_running=1)
    greedy = [engine.add(request(llm, "greedy")) for _ in range(4)]
    modest = [engine.add(request(llm, "modest")) for _ in range(2)]
    begun = started(engine, [*greedy, *modest])
    assert [s.request.client for s in begun] == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]


def test_one_clients_requests_begin_in_order(llm: LLM) -> None:
    engine = llm.new_engine(max_running=2)
    crowd = [engine.add(request(llm, "crowd", tokens=4 + i % 3)) for i in range(6)]
    assert started(engine, crowd) == crowd


def bounded(llm: LLM) -> Engine:
    memory = KVBudget(llm.pair.target.kv, limit=0, keep_prefixes=False)
    memory.limit = memory.need(700)
    return llm.new_engine(max_running=4, memory=memory)


def test_small_ones_pass_a_large_one(llm: LLM) -> None:
    engine = bounded(llm)
    first = engine.add(request(llm, "a", tokens=300))
    engine.step()
    large = engine.add(request(llm, "b", tokens=600))
    small = engine.add(request(llm, "c", tokens=20))
    engine.step()
    assert small.begun and not large.begun
    assert started(engine, [first, small, large])[-1] is large


def test_a_large_one_does_not_wait_for_ever(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PASS_S", 0.0)
    engine = bounded(llm)
    engine.add(request(llm, "a", tokens=300))
    engine.step()
    large = engine.add(request(llm, "b", tokens=600))
    engine.step()
    small = [engine.add(request(llm, "c", tokens=20)) for _ in range(3)]
    for _ in range(5):
        engine.step()
        assert not any(s.begun for s in small)
    assert started(engine, [*small, large])[0] is large


def test_places_are_kept_for_others(llm: LLM) -> None:
    service = EngineService(llm.new_engine(max_running=4), max_waiting=4)
    for _ in range(6):
        service.submit(request(llm, "crowd"))
    with pytest.raises(QueueFullError, match="6 of your requests"):
        service.submit(request(llm, "crowd"))
    service.submit(request(llm, "other"))
    service.submit(request(llm, "third"))
    with pytest.raises(QueueFullError, match=r"8 requests are here, and 4 may run \(--max-running\) and 4 wait"):
        service.submit(request(llm, "fourth"))
    service.stop()


def test_unknown_clients_may_have_all_places() -> None:
    check_place("", [""] * 7, 8, 4)
    with pytest.raises(QueueFullError):
        check_place("", [""] * 8, 8, 4)
    with pytest.raises(QueueFullError, match="of your"):
        check_place("a", ["a"] * 6, 8, 4)
