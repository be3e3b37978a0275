"""Requests to replicas through a handle of Ray Serve."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import Context
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from geminate.engine.messages import EngineRequest
from geminate.fleet.board import Board
from geminate.fleet.link import ReplicaLostError
from geminate.fleet.messages import Batch


class RayStream:
    """The batches of one request."""

    def __init__(self, source: Any, board: Board, request_id: str) -> None:
        self._source, self._board, self._id = source, board, request_id
        self._closed = False

    @property
    def replica(self) -> str:
        """See `ReplicaStream`."""
        return self._board.at(self._id)

    async def next(self) -> Batch | None:
        """See `ReplicaStream`."""
        try:
            batch: Batch = await anext(self._source)
            return batch
        except StopAsyncIteration:
            return None
        except (RayError, RayServeException) as error:
            replica = self.replica
            if replica and isinstance(error, RayActorError):
                self._board.gone(replica)
            raise ReplicaLostError(replica, f"{type(error).__name__}") from error

    def close(self) -> None:
        """See `ReplicaStream`."""
        if not self._closed:
            self._closed = True
            self._source.cancel()


class RayLink:
    """Sends requests through a deployment's handle, whose router is `geminate.fleet.router.PrefixRouter`."""

    def __init__(self, handle: DeploymentHandle[Any], board: Board) -> None:
        self._handle, self._board = handle.options(stream=True), board

    def open(self, request: EngineRequest, avoid: Collection[str]) -> RayStream:
        """See `ReplicaLink`."""
        # In the context of an HTTP request Ray gives all calls that request's internal id, by which its router finds
        # them: of two calls at a time one would be looked for without end.
        source = Context().run(self._handle.generate.remote, request, frozenset(avoid))
        return RayStream(source, self._board, request.request_id)
