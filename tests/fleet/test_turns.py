"""Places of a fleet: clients take turns, limits hold for all replicas together, refusals say when to come back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.engine.client import AsyncEvents
from geminate.engine.messages import EngineRequest
from geminate.errors import DrainingError, ParameterError, QueueFullError
from geminate.fleet.turns import Turns
from geminate.server.http.errors import from_geminate
from support.fleet import FakeFleet

NUMBERS = itertools.count()


def order(places: int, clients: list[str]) -> list[str]:
    """In which order these clients' requests get their turn, each of which lasts until the next one waits."""
    began: list[str] = []

    async def one(turns: Turns, client: str) -> None:
        async with turns.turn(client):
            began.append(client)
            await asyncio.sleep(0)

    async def main() -> None:
        turns = Turns(lambda: places)
        await asyncio.gather(*(one(turns, client) for client in clients))
        assert turns.running == turns.waiting == 0

    asyncio.run(main())
    return began


def test_clients_take_turns() -> None:
    assert order(1, ["a"] * 4 + ["b"] * 2) == ["a", "b", "a", "b", "a", "a"]
    assert order(2, ["a"] * 4 + ["b"])[:3] in (["a", "a", "b"], ["a", "b", "a"])


def test_more_places_wake_those_who_wait() -> None:
    async def main() -> None:
        places = 0
        turns = Turns(lambda: places)
        began = asyncio.Event()

        async def one() -> None:
            async with turns.turn(""):
                began.set()

        task = asyncio.create_task(one())
        await asyncio.sleep(0.01)
        assert turns.waiting == 1 and not began.is_set()
        places = 1
        turns.wake()
        await asyncio.wait_for(task, 1)
        assert began.is_set() and turns.running == 0

    asyncio.run(main())


def test_who_gives_up_while_waiting_takes_no_place() -> None:
    async def main() -> None:
        turns = Turns(lambda: 1)

        async def hold(until: asyncio.Event) -> None:
            async with turns.turn("a"):
                await until.wait()

        done = asyncio.Event()
        first, second = asyncio.create_task(hold(done)), asyncio.create_task(hold(done))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (turns.running, turns.waiting) == (1, 0)
        done.set()
        await first
        assert turns.running == 0

    asyncio.run(main())


@pytest.fixture(scope="module")
def fleet() -> Iterator[FakeFleet]:
    made = FakeFleet([LLM(threads=1)], max_running=2, max_waiting=2)
    yield made
    made.close()


def job(fleet: FakeFleet, client: str = "", **params: Any) -> EngineRequest:
    llm = fleet.engines["r0"].llm
    sampling = SamplingParams(**{"max_tokens": 200, "seed": 1, "ignore_eos": True, **params})
    return EngineRequest(
        request_id=f"t{next(NUMBERS)}", prompt_ids=[5, 6, 7], sampling=llm.resolve(sampling), client=client
    )


def test_the_queue_is_the_fleets(fleet: FakeFleet) -> None:
    async def main() -> None:
        streams = [AsyncEvents(fleet.service, job(fleet)) for _ in range(4)]
        await asyncio.sleep(0.05)
        snapshot = fleet.service.snapshot()
        assert (snapshot.running, snapshot.waiting) == (2, 2)
        with pytest.raises(QueueFullError) as refused:
            AsyncEvents(fleet.service, job(fleet))
        answer = from_geminate(refused.value)
        assert answer.status == 429 and int(answer.headers["Retry-After"]) == fleet.service.retry_after_s()
        for stream in streams:
            stream.cancel()
        await asyncio.sleep(0.05)
        assert fleet.service.idle

    asyncio.run(main())


def test_one_client_leaves_places_for_others(fleet: FakeFleet) -> None:
    async def main() -> None:
        streams = [AsyncEvents(fleet.service, job(fleet, "greedy")) for _ in range(3)]
        with pytest.raises(QueueFullError, match="one client may have 3 of 4"):
            AsyncEvents(fleet.service, job(fleet, "greedy"))
        streams.append(AsyncEvents(fleet.service, job(fleet, "other")))
        for stream in streams:
            stream.cancel()

    asyncio.run(main())


def test_retry_after_grows_with_the_time_of_requests(fleet: FakeFleet) -> None:
    before = fleet.service.retry_after_s()
    fleet.service._mean_s, kept = 20.0, fleet.service._mean_s
    try:
        assert fleet.service.retry_after_s() == 10 > before  # two places
        fleet.service._mean_s = 1e6
        assert fleet.service.retry_after_s() == 60
    finally:
        fleet.service._mean_s = kept


def test_bad_requests_are_refused_before_they_are_sent(fleet: FakeFleet) -> None:
    async def main() -> None:
        with pytest.raises(ParameterError, match="outside the vocabulary"):
            request = job(fleet)
            AsyncEvents(fleet.service, EngineRequest(request_id="x", prompt_ids=[1 << 30], sampling=request.sampling))

    sent = len(fleet.link.opened)
    asyncio.run(main())
    assert len(fleet.link.opened) == sent


def test_a_draining_fleet_refuses_and_finishes(fleet: FakeFleet) -> None:
    async def main() -> None:
        stream = AsyncEvents(fleet.service, job(fleet, max_tokens=20))
        fleet.service.drain()
        with pytest.raises(DrainingError):
            AsyncEvents(fleet.service, job(fleet))
        events = [event async for batch in stream.batches() for event in batch]
        assert events[-1].finish_reason == "length"

    asyncio.run(main())
    fleet.service._draining = False
