"""The engine as a service: what jobs get back, in what order, and what happens to those that go away."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psutil
import pytest

from geminate import LLM, SamplingParams
from geminate.errors import ContextLengthError, DrainingError, EngineFailedError, QueueFullError, RequestTimeoutError
from geminate.server.jobs import Job, Piece, Ticket
from geminate.server.service import Service
from geminate.text.reply import PlainReply


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=2)


@pytest.fixture
def service(llm: LLM) -> Any:
    made = Service(llm, max_running=4, max_waiting=6)
    made.start()
    yield made
    made.stop()


def job(llm: LLM, text: str = "Once upon a time", **more: Any) -> Job:
    params = SamplingParams(
        **{"max_tokens": 24, "temperature": 0.8, "seed": 5, "ignore_eos": True, **more.pop("params", {})}
    )
    assert llm.tokenizer is not None
    tokenizer = llm.tokenizer
    return Job(
        request_id="r", prompt_ids=llm.encode(text), params=params,
        make_reply=lambda: PlainReply(tokenizer, params.stop), **more,
    )  # fmt: skip


async def collect(ticket: Ticket) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    async for piece in ticket:
        found.setdefault(piece.choice, []).append(piece)
    return found


def text_of(pieces: list[Piece]) -> str:
    return "".join(delta.text for piece in pieces for delta in piece.deltas)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def run(main: Callable[[], Awaitable[None]], seconds: float = 300) -> None:
    """Far more time than it takes: only a hang should end it."""
    asyncio.run(asyncio.wait_for(main(), seconds))  # type: ignore[arg-type]


def test_a_job_equals_generate(llm: LLM, service: Service) -> None:
    asked = job(llm, params={"logprobs": 2})
    want = llm.generate(asked.prompt_ids, asked.params, speculation="off")[0]

    async def main() -> None:
        for speculation in (0, 3, "auto", "ngram"):
            pieces = (await collect(service.submit(job(llm, params={"logprobs": 2}, speculation=speculation))))[0]
            assert ids_of(pieces) == want.token_ids and text_of(pieces) == want.text
            assert [t.logprobs for p in pieces for t in p.tokens] == want.logprobs
            last = pieces[-1]
            assert last.finish_reason == "length" and last.stats is not None and last.stats.generated_tokens == 24
            assert all(p.finish_reason is None and p.stats is None for p in pieces[:-1])
            assert sum(t.origin != "target" for p in pieces for t in p.tokens) == last.stats.accepted
            assert sum(p.accepted for p in pieces) == last.stats.accepted
            assert sum(p.drafted for p in pieces) == last.stats.drafted

    run(main)


def test_choices_differ_and_share_the_prompt(llm: LLM, service: Service) -> None:
    text = "Once upon a time there was a little girl called Sara. " * 8
    lone: list[list[int]] = []

    async def main() -> None:
        found = await collect(service.submit(job(llm, text, n=3)))
        assert sorted(found) == [0, 1, 2]
        lone.extend(ids_of(found[i]) for i in range(3))
        assert len({tuple(ids) for ids in lone}) == 3
        reused = [pieces[-1].stats.reused_tokens for _, pieces in sorted(found.items()) if pieces[-1].stats]
        assert reused[0] == 0 and min(reused[1:]) >= 64, "the others start from the first one's prompt"
        alone = await collect(service.submit(job(llm, text)))
        assert ids_of(alone[0]) == lone[0], "choice 0 is what n = 1 gives"

    run(main)


def test_alone_or_among_fifteen(llm: LLM, service: Service) -> None:
    async def one(index: int, speculation: Any) -> list[int]:
        asked = job(llm, f"Question {index}: what is {index} + 4?", params={"seed": index}, speculation=speculation)
        while True:
            try:
                return ids_of((await collect(service.submit(asked)))[0])
            except QueueFullError:
                await asyncio.sleep(0.01)

    async def main() -> None:
        alone = [await one(i, 0) for i in range(16)]
        for mode in (0, "auto", 4):
            together = await asyncio.gather(*(one(i, mode) for i in range(16)))
            assert together == alone, mode

    run(main)


def test_cancelled_jobs_free_their_memory_within_a_round(llm: LLM, service: Service) -> None:
    async def main() -> None:
        tickets = [service.submit(job(llm, params={"max_tokens": 2000})) for _ in range(6)]
        async for _ in tickets[0]:
            break
        for ticket in tickets:
            ticket.cancel()
            ticket.cancel()
        await until(lambda: service.idle and service.memory.used == 0)
        assert not service.engine.running and not service.engine.waiting

    run(main)


def test_leaving_the_iteration_cancels(llm: LLM, service: Service) -> None:
    async def main() -> None:
        ticket = service.submit(job(llm, params={"max_tokens": 2000}))
        pieces: AsyncIterator[list[Piece]] = ticket.batches()
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        await until(lambda: service.idle and service.memory.used == 0)

    run(main)


def test_a_full_queue_refuses_and_recovers(llm: LLM, service: Service) -> None:
    async def main() -> None:
        tickets: list[Ticket] = []
        with pytest.raises(QueueFullError, match="6 wait"):
            for _ in range(40):
                tickets.append(service.submit(job(llm, params={"max_tokens": 400})))
        assert len(tickets) == 10, "four run, six wait"
        found = await asyncio.gather(*(collect(ticket) for ticket in tickets))
        assert len({tuple(ids_of(f[0])) for f in found}) == 1
        assert ids_of((await collect(service.submit(job(llm))))[0])

    run(main)


def test_time_is_limited(llm: LLM, service: Service) -> None:
    async def main() -> None:
        ticket = service.submit(job(llm, params={"max_tokens": 100_000}, timeout_s=0.05))
        with pytest.raises(RequestTimeoutError, match=r"0\.05 s"):
            await collect(ticket)
        await until(lambda: service.idle and service.memory.used == 0)

    run(main)


def test_what_cannot_run_is_refused_at_once(llm: LLM) -> None:
    service = Service(llm, max_running=2, kv_bytes=1 << 12)

    async def main() -> None:
        with pytest.raises(ContextLengthError, match="more memory"):
            service.submit(job(llm))
        with pytest.raises(ContextLengthError, match="context holds"):
            service.submit(job(llm, "word " * 20_000))

    run(main)


def test_draining(llm: LLM, service: Service) -> None:
    async def main() -> None:
        ticket = service.submit(job(llm, params={"max_tokens": 200}))
        service.drain()
        with pytest.raises(DrainingError):
            service.submit(job(llm))
        assert len(ids_of((await collect(ticket))[0])) == 200
        await until(lambda: service.idle)

    run(main)


def test_stopping_ends_what_runs_with_a_message(llm: LLM) -> None:
    service = Service(llm, max_running=2)
    service.start()

    async def main() -> None:
        ticket = service.submit(job(llm, params={"max_tokens": 3000}))
        pieces = ticket.batches()
        await anext(pieces)
        await asyncio.get_running_loop().run_in_executor(None, service.stop)
        with pytest.raises(DrainingError, match="before the answer was complete"):
            async for _ in pieces:
                pass

    run(main)


def test_a_broken_reply_fails_its_own_job_only(llm: LLM, service: Service) -> None:
    class Broken:
        stopped = False

        def push(self, token: int) -> list[Any]:
            raise ZeroDivisionError

        def flush(self) -> list[Any]:
            return []

    async def main() -> None:
        good = service.submit(job(llm))
        asked = job(llm)
        bad = service.submit(Job(request_id="b", prompt_ids=asked.prompt_ids, params=asked.params, make_reply=Broken))
        with pytest.raises(EngineFailedError, match="ZeroDivisionError"):
            await collect(bad)
        assert len(ids_of((await collect(good))[0])) == 24
        await until(lambda: service.idle and service.memory.used == 0)

    run(main)


def test_a_failed_engine_says_so(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(llm, max_running=2)

    def broken() -> None:
        raise RuntimeError("kernels on fire")

    monkeypatch.setattr(service.engine, "step", broken)
    service.start()

    async def main() -> None:
        with pytest.raises(EngineFailedError, match="kernels on fire"):
            await collect(service.submit(job(llm)))
        with pytest.raises(EngineFailedError, match="restart"):
            service.submit(job(llm))

    run(main)


def test_two_thousand_requests_leak_nothing(llm: LLM, service: Service) -> None:
    """A third are cancelled on their way; resident memory stays within 5 %."""
    process = psutil.Process()
    sizes: list[int] = []

    async def one(index: int) -> None:
        asked = job(llm, f"{index % 37} and {index}", params={"max_tokens": 1 + index % 9, "seed": index})
        while True:
            try:
                ticket = service.submit(asked)
                break
            except QueueFullError:
                await asyncio.sleep(0.1)  # a busy retry would keep the engine from the interpreter
        if index % 3 == 0:
            ticket.cancel()
            return
        await collect(ticket)

    async def main() -> None:
        service.memory.limit = 1 << 25  # soon full of kept prefixes: what follows must replace them
        for start in range(0, 2000, 100):
            await asyncio.gather(*(one(i) for i in range(start, start + 100)))
            gc.collect()
            sizes.append(process.memory_info().rss)
        await until(lambda: service.idle and service.memory.used == 0)

    run(main, seconds=1200)
    assert max(sizes[10:]) < 1.05 * sizes[9], [s >> 20 for s in sizes]
