"""What fails inside a pass fails as little as it must, and a broken engine says so."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.engine.client import AsyncEvents
from geminate.engine.messages import EngineRequest
from geminate.engine.service import EngineService
from geminate.errors import EngineFailedError
from geminate.kv.budget import KVBudget
from geminate.speculation.policy import FixedPolicy

PARAMS = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


def fault(real: Callable[..., Any], error: BaseException, calls: range) -> Callable[..., Any]:
    """A method that raises on some of its calls."""
    count = itertools.count(1)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if next(count) in calls:
            raise error
        return real(*args, **kwargs)

    return broken


def make_service(llm: LLM, failed: list[bool]) -> EngineService:
    memory = KVBudget(llm.pair.target.kv, limit=1 << 26)
    return EngineService(llm.new_engine(memory=memory), on_failure=lambda: failed.append(True))


def request(llm: LLM, number: int, speculation: str | int = 4) -> EngineRequest:
    asked = llm.request(llm.encode("Once upon a time" + " there" * number), PARAMS, speculation=speculation)
    return asked


@asynccontextmanager
async def running(llm: LLM, failed: list[bool]) -> AsyncIterator[EngineService]:
    service = make_service(llm, failed)
    service.start()
    try:
        yield service
    finally:
        await asyncio.to_thread(service.stop)


async def ids_of(service: EngineService, asked: EngineRequest) -> list[int]:
    found: list[int] = []
    async for events in AsyncEvents(service, asked).batches():
        for event in events:
            found += event.token_ids
    return found


def expected(llm: LLM, number: int) -> list[int]:
    return llm.generate("Once upon a time" + " there" * number, PARAMS, speculation="off")[0].token_ids


@pytest.mark.parametrize("where", ["decide", "observe"])
def test_a_drafter_that_fails_costs_speed_alone(llm: LLM, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FixedPolicy, where, fault(getattr(FixedPolicy, where), TypeError("bad"), range(3, 4)))

    async def main() -> None:
        failed: list[bool] = []
        async with running(llm, failed) as service:
            assert await ids_of(service, request(llm, 1)) == expected(llm, 1)
        assert not failed

    asyncio.run(main())


def test_a_prefix_that_cannot_be_kept_costs_nothing_else(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVBudget, "capture", fault(KVBudget.capture, MemoryError(), range(1, 100)))

    async def main() -> None:
        failed: list[bool] = []
        async with running(llm, failed) as service:
            assert await ids_of(service, request(llm, 2)) == expected(llm, 2)
        assert not failed

    asyncio.run(main())


def test_a_failed_pass_fails_its_requests_and_the_engine_goes_on(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    target = type(llm.pair.target)

    async def main() -> None:
        failed: list[bool] = []
        async with running(llm, failed) as service:
            monkeypatch.setattr(target, "extend", fault(target.extend, MemoryError("no room"), range(3, 4)))
            both = await asyncio.gather(
                ids_of(service, request(llm, 3)), ids_of(service, request(llm, 4)), return_exceptions=True
            )
            monkeypatch.undo()
            assert any(isinstance(found, EngineFailedError) for found in both)
            assert all("MemoryError" in str(e) and "no room" not in str(e) for e in both if isinstance(e, Exception))
            assert service.engine.memory is not None and not service.failed
            assert await ids_of(service, request(llm, 5)) == expected(llm, 5)
            assert service.engine.memory.used == 0
        assert not failed

    asyncio.run(main())


def test_two_failed_passes_in_a_row_end_the_engine(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    target = type(llm.pair.target)

    async def main() -> None:
        failed: list[bool] = []
        async with running(llm, failed) as service:
            monkeypatch.setattr(target, "extend", fault(target.extend, RuntimeError("broken"), range(1, 9)))
            for number in (6, 7):
                with pytest.raises(EngineFailedError):
                    await ids_of(service, request(llm, number))
            for _ in range(100):
                if failed:
                    break
                await asyncio.sleep(0.01)
            assert service.failed and failed == [True]
            with pytest.raises(EngineFailedError, match="has failed"):
                service.submit(request(llm, 8))

    asyncio.run(main())


def test_a_sequence_without_memory_fails_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        failed: list[bool] = []
        async with running(llm, failed) as service:
            monkeypatch.setattr(KVBudget, "lease", fault(KVBudget.lease, MemoryError(), range(1, 2)))
            with pytest.raises(EngineFailedError, match="MemoryError"):
                await ids_of(service, request(llm, 9))
            assert await ids_of(service, request(llm, 9)) == expected(llm, 9)
            assert not service.engine.waiting and not service.engine.running
        assert not failed

    asyncio.run(main())
