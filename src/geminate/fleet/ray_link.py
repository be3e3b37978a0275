"""Requests to replicas through a handle of Ray Serve: a call each, and one stream of all events from every replica."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Collection
from contextvars import Context
from typing import Any

import grpc
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from geminate.engine.messages import EngineRequest
from geminate.fleet.board import Board
from geminate.fleet.link import ReplicaLostError
from geminate.fleet.messages import Batch
from geminate.fleet.outbox import Subscription, UnsubscribedError, unpacked

FAILURES = (RayError, RayServeException, grpc.RpcError, UnsubscribedError)


class RayStream:
    """The batches of one request.

    Args:
        response: ends with the number of batches that the replica has sent.
        on_close: called with the stream when it is closed.
    """

    def __init__(self, request_id: str, board: Board, response: Any, on_close: Callable[[RayStream], None]) -> None:
        self.request_id, self._board = request_id, board
        self._response, self._on_close = response, on_close
        self._batches: deque[Batch] = deque()
        self._news = asyncio.Event()
        self._came, self._sent = 0, -1
        self._lost: ReplicaLostError | None = None
        self._closed = False
        self._answer = asyncio.create_task(self._wait())

    @property
    def replica(self) -> str:
        """See `ReplicaStream`."""
        return self._board.at(self.request_id)

    def put(self, batch: Batch, count: int) -> None:
        """A batch has come, which was so many when it was sent."""
        self._batches.append(batch)
        self._came += count
        self._news.set()

    def lose(self, reason: str) -> None:
        """Its replica is lost, behind the batches that have come."""
        if self._lost is None:
            self._lost = ReplicaLostError(self.replica, reason)
        self._news.set()

    async def next(self) -> Batch | None:
        """See `ReplicaStream`."""
        while not self._batches:
            if self._lost is not None:
                raise self._lost
            if self._came == self._sent:
                return None
            self._news.clear()
            await self._news.wait()
        return self._batches.popleft()

    async def _wait(self) -> None:
        try:
            self._sent = await self._response
            self._news.set()
        except FAILURES as error:
            _mark(self._board, self.replica, error)
            self.lose(type(error).__name__)

    def close(self) -> None:
        """See `ReplicaStream`."""
        if not self._closed:
            self._closed = True
            if not self._answer.done():
                self._response.cancel()
                self._answer.cancel()
            self._on_close(self)


class RayLink:
    """Sends requests through a deployment's handle, whose router is `geminate.fleet.router.PrefixRouter`.

    Made in the event loop in which it is used.
    """

    def __init__(self, handle: DeploymentHandle[Any], board: Board) -> None:
        # Not by reference: a call is a message between the two processes, which costs a fraction of one through Ray's
        # object store.
        self._calls = handle.options(_by_reference=False)
        self._events = handle.options(_by_reference=False, stream=True)
        self._board, self._name = board, uuid.uuid4().hex
        self._streams: dict[str, RayStream] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        board.listeners.append(self._replicas_changed)

    def _replicas_changed(self) -> None:
        """Called in any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._follow_all)

    def _follow_all(self) -> None:
        """Read the events of every replica that takes requests, and of others as long as they have some."""
        names = self._board.names
        for name in names - self._readers.keys():
            self._readers[name] = self._loop.create_task(self._follow(name))
        busy = {stream.replica for stream in self._streams.values()}
        for name in self._readers.keys() - names - busy:
            self._readers.pop(name).cancel()

    async def _follow(self, name: str) -> None:
        """Hand the events of a replica over to their streams, until it is lost."""
        source = Context().run(self._events.events.remote, Subscription(ingress=self._name, replica=name))
        reason = "its events have ended"
        try:
            async for parcel in source:
                for count, entry in parcel:
                    request_id, batch = unpacked(entry)
                    stream = self._streams.get(request_id)
                    if stream is not None:
                        stream.put(batch, count)
        except FAILURES as error:
            _mark(self._board, name, error)
            reason = type(error).__name__
        finally:
            source.cancel()
            if self._readers.get(name) is asyncio.current_task():
                del self._readers[name]
            for stream in self._streams.values():
                if stream.replica == name:
                    stream.lose(reason)

    def open(self, request: EngineRequest, avoid: Collection[str]) -> RayStream:
        """See `ReplicaLink`."""
        # In the context of an HTTP request Ray gives all calls that request's internal id, by which its router finds
        # them: of two calls at a time one would be looked for without end.
        response = Context().run(self._calls.generate.remote, request, frozenset(avoid), self._name)
        stream = RayStream(request.request_id, self._board, response, self._closed)
        self._streams[request.request_id] = stream
        return stream

    def _closed(self, stream: RayStream) -> None:
        self._streams.pop(stream.request_id, None)
        if stream.replica not in self._board.names:
            self._follow_all()


def _mark(board: Board, replica: str, error: Exception) -> None:
    """Send a replica nothing for now, after such an error."""
    if replica and isinstance(error, RayActorError) and not isinstance(error, ActorUnavailableError):
        board.gone(replica)
    elif replica:
        board.suspect(replica)
