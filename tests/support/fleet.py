"""Replicas of a fleet in this process, which die, hang or misbehave when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from geminate.engine.client import AsyncEvents
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.service import ServiceSnapshot
from geminate.fleet.board import Board
from geminate.fleet.client import FleetService, Loss
from geminate.fleet.link import ReplicaLostError
from geminate.fleet.messages import Batch, ReplicaStats
from geminate.fleet.replica import ReplicaEngine
from geminate.llm import LLM
from geminate.server import start
from geminate.server.settings import Settings

HANG = "hang"
STATS = ReplicaStats(snapshot=ServiceSnapshot(running=0, waiting=0), pass_s=(0.01,) * 17, prompt_row_s=0.001)


class FakeStream:
    """One request at one replica, an event a batch; ``fate`` may end it before any of them."""

    def __init__(self, link: FakeLink, name: str, request: EngineRequest) -> None:
        self._link, self._name, self._id = link, name, request.request_id
        self._source = _single(batches(link.engines[name], request))
        self.closed = False

    @property
    def replica(self) -> str:
        return self._name

    async def next(self) -> Batch | None:
        batch = await anext(self._source, None)
        if batch is None or not batch.events:
            return batch
        self._link.delivered += 1
        what = self._link.fate(self._link.delivered)
        if what == HANG:
            await asyncio.Event().wait()
        if what is not None:
            raise ReplicaLostError(self._name, what)
        return self._link.forged(batch)

    def close(self) -> None:
        self.closed = True
        self._link.closed.append(self._id)


async def batches(engine: ReplicaEngine, request: EngineRequest) -> AsyncIterator[Batch]:
    """The batches of a request at a replica; leaving the iteration cancels it."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Batch | None] = asyncio.Queue()

    def put(batch: Batch) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the test has ended
            loop.call_soon_threadsafe(queue.put_nowait, batch)

    answer = asyncio.ensure_future(engine.answer(request, put))
    answer.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (batch := await queue.get()) is not None:
            yield batch
    finally:
        answer.cancel()


async def _single(source: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    async for batch in source:
        if len(batch.events) <= 1:
            yield batch
        for event in batch.events if len(batch.events) > 1 else ():
            yield dataclasses.replace(batch, events=(event,))


class FakeLink:
    """Requests go to the replicas as `Board.order` has it.

    Attributes:
        fate: called with the number of every batch with events before it is delivered; a word loses the replica.
        forged: changes batches that are delivered.
        opened: (request, replica) of every stream. closed: ids of streams that were closed.
    """

    def __init__(self, engines: dict[str, ReplicaEngine], board: Board) -> None:
        self.engines, self.board = engines, board
        self.fate: Callable[[int], str | None] = lambda number: None
        self.forged: Callable[[Batch], Batch] = lambda batch: batch
        self.delivered = 0
        self.opened: list[tuple[EngineRequest, str]] = []
        self.closed: list[str] = []
        board.update(dict.fromkeys(engines, STATS))

    def open(self, request: EngineRequest, avoid: Collection[str]) -> FakeStream:
        name = self.board.order(request, list(self.engines), avoid)[0]
        self.board.sent(request, name)
        self.opened.append((request, name))
        return FakeStream(self, name, request)


class FakeFleet:
    """Replicas with the embedded pair, and their client."""

    def __init__(self, llms: list[LLM], **more: Any) -> None:
        settings = Settings(max_running=more.pop("max_running", 4), max_waiting=more.pop("max_waiting", 8))
        self.engines = {
            f"r{number}": ReplicaEngine(f"r{number}", llm, settings, proof="same") for number, llm in enumerate(llms)
        }
        self.board = Board(max_running=settings.max_running)
        self.link = FakeLink(self.engines, self.board)
        self.losses: list[Loss] = []
        llm = llms[0]
        self.service = FleetService(
            llm.new_engine(max_running=settings.max_running, memory=start.kv_budget(llm, settings)),
            self.link,
            self.board,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            on_loss=self.losses.append,
            **more,
        )

    def reset(self) -> None:
        """Nothing was sent or lost yet, and nothing goes wrong."""
        self.link.fate, self.link.forged, self.link.delivered = (lambda number: None), (lambda batch: batch), 0
        self.link.opened.clear()
        self.losses.clear()

    def close(self) -> None:
        """Stop the replicas."""
        for engine in self.engines.values():
            engine.service.stop()


async def collect(service: Any, request: EngineRequest) -> dict[int, list[EngineEvent]]:
    """The events of a request by choice."""
    made: dict[int, list[EngineEvent]] = {choice: [] for choice in range(request.choice, request.choice + request.n)}
    async for batch in AsyncEvents(service, request).batches():
        for event in batch:
            assert event.request_id == request.request_id
            made[event.choice].append(event)
    return made


def outcome(events: list[EngineEvent]) -> tuple[list[int], list[Any], str | None, int | None]:
    """Tokens, log-probabilities, finish reason and stop token; positions must follow each other."""
    ids: list[int] = []
    first = next(event.position for event in events if event.token_ids)
    for event in events:
        if event.progress is None:
            assert event.position == first + len(ids)
            ids += event.token_ids
    assert [event.finish_reason is not None for event in events] == [False] * (len(events) - 1) + [True]
    return ids, [entry for event in events for entry in event.logprobs], events[-1].finish_reason, events[-1].stop_token
