"""The ingress's side of a fleet: streams that go on elsewhere, without a seam, when their replica is lost.

The ingress keeps every request, its seed and the tokens it has emitted. A replica that dies, hangs or fails is
replaced under the stream: the emitted tokens become a prefix, and by the numeric contract the rest is what the lost
replica would have sent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from geminate.engine.admission import check_place
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.open_requests import Sink
from geminate.engine.service import ServiceSnapshot
from geminate.errors import (
    DrainingError,
    EngineFailedError,
    GeminateError,
    ParameterError,
    QueueFullError,
    RequestTimeoutError,
)
from geminate.fleet.board import Board
from geminate.fleet.link import ReplicaLink, ReplicaLostError, ReplicaStream
from geminate.fleet.messages import Batch
from geminate.fleet.stream import OpenStream
from geminate.fleet.turns import Turns

log = logging.getLogger("geminate.server")
ELSEWHERE = (EngineFailedError, DrainingError)  # errors of a replica, not of the request
MAX_RETRY_AFTER_S = 60
NO_REPLICA_RETRY_S = 10
WEIGHT = 0.1  # of a request's seconds in the mean of all


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A stream lost its replica.

    Attributes:
        emitted: tokens that had been emitted. again: whether another replica goes on.
    """

    request_id: str
    replica: str
    reason: str
    emitted: int
    again: bool


class FleetService:
    """Serves requests with replicas; used in one event loop, in place of an `EngineService`.

    Args:
        engine: never steps; knows the limits of requests.
        link: reaches the replicas. board: what is known of them.
        max_running: sequences that a replica decodes at once. max_waiting: requests that may wait, for each replica.
        retries: replicas that one request may lose before it fails.
        stall_s: silence after which a replica counts as lost.
        on_loss: called for every stream that loses its replica.
    """

    def __init__(
        self,
        engine: Engine,
        link: ReplicaLink,
        board: Board,
        *,
        max_running: int,
        max_waiting: int,
        retries: int = 3,
        stall_s: float = 20.0,
        on_loss: Callable[[Loss], None] | None = None,
    ) -> None:
        self.engine, self.link, self.board = engine, link, board
        self._max_running, self._max_waiting = max_running, max_waiting
        self._retries, self._stall_s = retries, stall_s
        self._on_loss = on_loss
        self._open: dict[str, OpenStream] = {}
        self._turns = Turns(self._places)
        self._draining = False
        self._mean_s = 1.0
        self._loop: asyncio.AbstractEventLoop | None = None
        board.listeners.append(self._replicas_changed)

    def _places(self) -> int:
        return self.board.count * self._max_running

    def _replicas_changed(self) -> None:
        """Called in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._turns.wake)

    def submit(self, request: EngineRequest, sink: Sink) -> str:
        """See `EngineService.submit`; called in the event loop, as ``sink`` is."""
        if self._draining:
            raise DrainingError("the server is shutting down and accepts no new requests")
        self.engine.check(request)
        self._check_place(request.client)
        if request.request_id in self._open:
            raise ParameterError(f"a request with the id {request.request_id!r} is open already")
        stream = self._open[request.request_id] = OpenStream(request, sink)
        self._loop = asyncio.get_running_loop()
        stream.task = self._loop.create_task(self._serve(stream))
        return request.request_id

    def _check_place(self, client: str) -> None:
        replicas = max(1, self.board.count)
        running = replicas * self._max_running
        try:
            clients = [stream.request.client for stream in self._open.values()]
            check_place(client, clients, running + replicas * self._max_waiting, running)
        except QueueFullError as error:
            error.retry_after_s = self.retry_after_s()
            raise

    def retry_after_s(self) -> int:
        """Seconds until a place is expected to be free: a request's mean time over the places there are."""
        places = self._places()
        if not places:
            return NO_REPLICA_RETRY_S
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(self._mean_s / places)))

    def cancel(self, request_id: str) -> None:
        """See `EngineService.cancel`; called in the event loop."""
        stream = self._open.pop(request_id, None)
        if stream is not None and stream.task is not None:
            stream.task.cancel()

    def drain(self) -> None:
        """Refuse new requests; the open ones go on to their end."""
        self._draining = True

    @property
    def failed(self) -> bool:
        """Never: replicas come back."""
        return False

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self._open

    def snapshot(self) -> ServiceSnapshot:
        """Of all replicas together; KV figures are those that they have published last."""
        return self.board.snapshot(running=self._turns.running, waiting=self._turns.waiting)

    def prompt_progress(self, prefix: str) -> tuple[int | None, int] | None:
        """See `EngineService.prompt_progress`."""
        stream = next((one for name, one in self._open.items() if name.startswith(prefix)), None)
        return None if stream is None else stream.prompt

    async def _serve(self, stream: OpenStream) -> None:
        """Follow a request to its end, whichever replicas that takes."""
        request, began = stream.request, time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            left = stream.deadline - time.perf_counter()
            async with asyncio.timeout_at(None if left == math.inf else loop.time() + left):
                async with self._turns.turn(request.client):
                    began = time.perf_counter()
                    await self._follow(stream, request, frozenset())
            self._mean_s += WEIGHT * (time.perf_counter() - began - self._mean_s)
        except TimeoutError:
            seconds = request.timeout_s
            self._fail(stream, RequestTimeoutError(f"the request took longer than the {seconds:g} s it may take"))
        except GeminateError as error:
            self._fail(stream, error)
        except Exception as error:
            log.error("request %s failed in the ingress", request.request_id, exc_info=error)
            self._fail(stream, EngineFailedError(f"request {request.request_id} failed; the log has the details"))
        finally:
            self._open.pop(request.request_id, None)

    def _fail(self, stream: OpenStream, error: Exception) -> None:
        request = stream.request
        stream.sink([EngineEvent(request_id=request.request_id, finish_reason="abort", error=error)])

    async def _follow(self, stream: OpenStream, part: EngineRequest, lost: frozenset[str]) -> None:
        """Follow a part of a request to its end; ``lost``: replicas that it has lost."""
        while True:
            try:
                await self._read(stream, part, lost)
                return
            except ReplicaLostError as loss:
                self._note(stream, loss)
                lost |= {loss.replica} - {""}
            parts = stream.parts(part)
            if len(parts) > 1:
                break
            part = parts[0]
        async with AsyncExitStack() as ended:
            tasks = [asyncio.create_task(self._follow(stream, one, lost)) for one in parts]
            for task in tasks:
                ended.callback(task.cancel)
            await asyncio.gather(*tasks)

    def _note(self, stream: OpenStream, loss: ReplicaLostError) -> None:
        """Count a loss.

        Raises:
            EngineFailedError: the request has lost too many.
        """
        stream.losses += 1
        again = stream.losses <= self._retries * len(stream.completions)
        request_id = stream.request.request_id
        if self._on_loss is not None:
            self._on_loss(
                Loss(
                    request_id=request_id,
                    replica=loss.replica,
                    reason=loss.reason,
                    emitted=stream.emitted,
                    again=again,
                )
            )
        if not again:
            raise EngineFailedError(
                f"request {request_id} has lost {stream.losses} replicas, the last one because {loss.reason}"
            )

    async def _read(self, stream: OpenStream, part: EngineRequest, lost: frozenset[str]) -> None:
        """Pass on what one replica sends of a part until its end.

        Raises:
            ReplicaLostError: it ends before. GeminateError: what is wrong with the request.
        """
        source = self.link.open(part, lost)
        clock = self.board.clock(part)
        try:
            while stream.unfinished(part):
                batch = await self._next(source)
                if batch is None:
                    raise ReplicaLostError(source.replica, "its stream ended early")
                events = stream.take(batch)
                clock.tick(batch)
                if events:
                    stream.sink(list(events))
                if batch.failure is not None:
                    error = batch.failure.error()
                    if isinstance(error, ELSEWHERE):
                        raise ReplicaLostError(batch.replica, str(error))
                    raise error
        finally:
            clock.stop()
            source.close()

    async def _next(self, source: ReplicaStream) -> Batch | None:
        """The next batch.

        Raises:
            ReplicaLostError: nothing has come for `stall_s` from the replica that has the request.
        """
        while True:
            try:
                async with asyncio.timeout(self._stall_s):
                    return await source.next()
            except TimeoutError:
                if source.replica:
                    self.board.suspect(source.replica)
                    raise ReplicaLostError(source.replica, f"it was silent for {self._stall_s:g} s") from None
