"""The engine as a service: what requests get back, in what order, and what happens to those that go away."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from geminate import LLM, SamplingParams
from geminate.engine.client import AsyncEvents
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.service import EngineService
from geminate.errors import ContextLengthError, DrainingError, EngineFailedError, QueueFullError, RequestTimeoutError
from geminate.kv.budget import KVBudget
from geminate.server.chunks import ChunkReader
from geminate.server.run import make_service
from geminate.server.settings import Settings


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=2)


@pytest.fixture
def service(llm: LLM) -> Any:
    made = make(llm, max_running=4, max_waiting=6)
    made.start()
    yield made
    made.stop()


def make(llm: LLM, **more: Any) -> EngineService:
    return make_service(llm, Settings(**more))


def memory(service: EngineService) -> KVBudget:
    assert service.engine.memory is not None
    return service.engine.memory


NUMBERS = itertools.count()


def job(llm: LLM, text: str = "Once upon a time", **more: Any) -> EngineRequest:
    params = SamplingParams(
        **{"max_tokens": 24, "temperature": 0.8, "seed": 5, "ignore_eos": True, **more.pop("params", {})}
    )
    return EngineRequest(
        request_id=f"r{next(NUMBERS)}", prompt_ids=llm.encode(text), sampling=llm.resolve(params), **more
    )


async def collect(stream: AsyncEvents) -> dict[int, list[EngineEvent]]:
    found: dict[int, list[EngineEvent]] = {}
    async for events in stream.batches():
        for event in events:
            found.setdefault(event.choice, []).append(event)
    return found


def ids_of(events: list[EngineEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def run(main: Callable[[], Awaitable[None]], seconds: float = 300) -> None:
    """Far more time than it takes: only a hang should end it."""
    asyncio.run(asyncio.wait_for(main(), seconds))  # type: ignore[arg-type]


def test_a_job_equals_generate(llm: LLM, service: EngineService) -> None:
    params = SamplingParams(max_tokens=24, temperature=0.8, seed=5, ignore_eos=True, logprobs=2)
    want = llm.generate("Once upon a time", params, speculation="off")[0]

    async def main() -> None:
        for speculation in (0, 3, "auto", "ngram"):
            asked = job(llm, params={"logprobs": 2}, speculation=speculation)
            events = (await collect(AsyncEvents(service, asked)))[0]
            reader = ChunkReader(llm, llm.tokenizer, asked)  # type: ignore[arg-type]
            pieces = [reader.read(event) for event in events]
            assert ids_of(events) == want.token_ids
            assert "".join(d.text for p in pieces for d in p.deltas) == want.text
            assert [lp for event in events for lp in event.logprobs] == want.logprobs
            last = events[-1]
            assert last.finish_reason == "length" and last.stats is not None and last.stats.generated_tokens == 24
            assert all(e.finish_reason is None and e.stats is None for e in events[:-1])
            assert sum(t.origin != "target" for p in pieces for t in p.tokens) == last.stats.accepted
            assert sum(e.accepted for e in events) == last.stats.accepted
            assert sum(e.drafted for e in events) == last.stats.drafted
            at = len(asked.prompt_ids)
            for event in events:
                assert event.position == at
                at += len(event.token_ids)

    run(main)


def test_choices_differ_and_share_the_prompt(llm: LLM, service: EngineService) -> None:
    text = "Once upon a time there was a little girl called Sara. " * 8
    lone: list[list[int]] = []

    async def main() -> None:
        found = await collect(AsyncEvents(service, job(llm, text, n=3)))
        assert sorted(found) == [0, 1, 2]
        lone.extend(ids_of(found[i]) for i in range(3))
        assert len({tuple(ids) for ids in lone}) == 3
        reused = [pieces[-1].stats.reused_tokens for _, pieces in sorted(found.items()) if pieces[-1].stats]
        assert reused[0] == 0 and min(reused[1:]) >= 64, "the others start from the first one's prompt"
        alone = await collect(AsyncEvents(service, job(llm, text)))
        assert ids_of(alone[0]) == lone[0], "choice 0 is what n = 1 gives"

    run(main)


def test_alone_or_among_fifteen(llm: LLM, service: EngineService) -> None:
    async def one(index: int, speculation: Any) -> list[int]:
        asked = job(llm, f"Question {index}: what is {index} + 4?", params={"seed": index}, speculation=speculation)
        while True:
            try:
                return ids_of((await collect(AsyncEvents(service, replace(asked, request_id=f"r{next(NUMBERS)}"))))[0])
            except QueueFullError:
                await asyncio.sleep(0.01)

    async def main() -> None:
        alone = [await one(i, 0) for i in range(16)]
        for mode in (0, "auto", 4):
            together = await asyncio.gather(*(one(i, mode) for i in range(16)))
            assert together == alone, mode

    run(main)


def test_cancelled_jobs_free_their_memory_within_a_round(llm: LLM, service: EngineService) -> None:
    async def main() -> None:
        tickets = [AsyncEvents(service, job(llm, params={"max_tokens": 2000})) for _ in range(6)]
        async for _ in tickets[0].batches():
            break
        for ticket in tickets:
            ticket.cancel()
            ticket.cancel()
        await until(lambda: service.idle and memory(service).used == 0)
        assert not service.engine.running and not service.engine.waiting

    run(main)


def test_leaving_the_iteration_cancels(llm: LLM, service: EngineService) -> None:
    async def main() -> None:
        ticket = AsyncEvents(service, job(llm, params={"max_tokens": 2000}))
        pieces: AsyncIterator[list[EngineEvent]] = ticket.batches()
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        await until(lambda: service.idle and memory(service).used == 0)

    run(main)


def test_a_full_queue_refuses_and_recovers(llm: LLM, service: EngineService) -> None:
    async def main() -> None:
        tickets: list[AsyncEvents] = []
        with pytest.raises(QueueFullError, match="6 wait"):
            for _ in range(40):
                tickets.append(AsyncEvents(service, job(llm, params={"max_tokens": 400})))
        assert len(tickets) == 10, "four run, six wait"
        found = await asyncio.gather(*(collect(ticket) for ticket in tickets))
        assert len({tuple(ids_of(f[0])) for f in found}) == 1
        assert ids_of((await collect(AsyncEvents(service, job(llm))))[0])

    run(main)


def test_requests_that_end_while_another_is_submitted(llm: LLM) -> None:
    """The thread that steps takes requests out without the lock; here one ends at every look at another."""
    service = make(llm, max_running=4, max_waiting=60)

    class Ending:
        """An open request in whose stead another one ends as soon as its client is looked at."""

        @property
        def request(self) -> EngineRequest:
            service._open.popitem()
            return held

    held = job(llm)
    for number in range(8):
        service._open[f"ending-{number}"] = Ending()  # type: ignore[assignment]
    request = job(llm)
    assert service.submit(request) == request.request_id
    for number in range(8):
        service._open[f"ending-{number}"] = Ending()  # type: ignore[assignment]
    assert service.prompt_progress("nobody") is None
    service._open.clear()


def test_time_is_limited(llm: LLM, service: EngineService) -> None:
    async def main() -> None:
        ticket = AsyncEvents(service, job(llm, params={"max_tokens": 100_000}, timeout_s=0.05))
        with pytest.raises(RequestTimeoutError, match=r"0\.05 s"):
            await collect(ticket)
        await until(lambda: service.idle and memory(service).used == 0)

    run(main)


def test_what_cannot_run_is_refused_at_once(llm: LLM) -> None:
    service = make(llm, max_running=2)
    memory(service).limit = 1 << 12

    async def main() -> None:
        with pytest.raises(ContextLengthError, match="more memory"):
            AsyncEvents(service, job(llm))
        with pytest.raises(ContextLengthError, match="context holds"):
            AsyncEvents(service, job(llm, "word " * 20_000))

    run(main)


def test_draining(llm: LLM, service: EngineService) -> None:
    async def main() -> None:
        ticket = AsyncEvents(service, job(llm, params={"max_tokens": 200}))
        service.drain()
        with pytest.raises(DrainingError):
            AsyncEvents(service, job(llm))
        assert len(ids_of((await collect(ticket))[0])) == 200
        await until(lambda: service.idle)

    run(main)


def test_stopping_ends_what_runs_with_a_message(llm: LLM) -> None:
    service = make(llm, max_running=2)
    service.start()

    async def main() -> None:
        ticket = AsyncEvents(service, job(llm, params={"max_tokens": 3000}))
        pieces = ticket.batches()
        await anext(pieces)
        await asyncio.get_running_loop().run_in_executor(None, service.stop)
        with pytest.raises(DrainingError, match="before the answer was complete"):
            async for _ in pieces:
                pass

    run(main)


def test_a_broken_stop_check_fails_its_own_request_only(llm: LLM, service: EngineService) -> None:
    real = service.engine._stop_checks
    assert real is not None

    def checks(request: EngineRequest) -> Any:
        def broken(token: int) -> bool:
            raise ZeroDivisionError

        return broken if request.sampling.stop == ("broken",) else real(request)

    service.engine._stop_checks = checks

    async def main() -> None:
        good = AsyncEvents(service, job(llm, params={"stop": ["never there"]}))
        bad = AsyncEvents(service, job(llm, params={"stop": ["broken"]}))
        with pytest.raises(EngineFailedError, match="ZeroDivisionError"):
            await collect(bad)
        assert len(ids_of((await collect(good))[0])) == 24
        await until(lambda: service.idle and memory(service).used == 0)

    run(main)


def test_a_failed_engine_says_so(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make(llm, max_running=2)

    def broken() -> None:
        raise RuntimeError("kernels on fire")

    monkeypatch.setattr(service.engine, "step", broken)
    service.start()

    async def main() -> None:
        for _ in range(2):  # one failed pass may be bad luck
            with pytest.raises(EngineFailedError, match="RuntimeError") as caught:
                await collect(AsyncEvents(service, job(llm)))
            assert "kernels on fire" not in str(caught.value) and "on fire" in str(caught.value.__cause__)
        await until(lambda: service.failed)
        with pytest.raises(EngineFailedError, match="restart"):
            AsyncEvents(service, job(llm))

    run(main)


def test_two_thousand_requests_leak_nothing(llm: LLM, service: EngineService) -> None:
    """A third are cancelled on their way; resident memory stays within 5 %."""
    process = psutil.Process()
    sizes: list[int] = []

    async def one(index: int) -> None:
        asked = job(llm, f"{index % 37} and {index}", params={"max_tokens": 1 + index % 9, "seed": index})
        while True:
            try:
                ticket = AsyncEvents(service, replace(asked, request_id=f"r{next(NUMBERS)}"))
                break
            except QueueFullError:
                await asyncio.sleep(0.1)  # a busy retry would keep the engine from the interpreter
        if index % 3 == 0:
            ticket.cancel()
            return
        await collect(ticket)

    async def main() -> None:
        memory(service).limit = 1 << 25  # soon full of kept prefixes: what follows must replace them
        for start in range(0, 2000, 100):
            await asyncio.gather(*(one(i) for i in range(start, start + 100)))
            gc.collect()
            sizes.append(process.memory_info().rss)
        await until(lambda: service.idle and memory(service).used == 0)

    run(main, seconds=1200)
    assert max(sizes[10:]) < 1.05 * sizes[9], [s >> 20 for s in sizes]
