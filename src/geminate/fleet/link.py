"""How a request reaches a replica: what a fleet's client needs, whatever carries it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from geminate.engine.messages import EngineRequest
from geminate.fleet.messages import Batch


class ReplicaLostError(Exception):
    """The replica that worked on a request does so no more.

    Attributes:
        replica: its id; "" if none had taken the request. reason: for the log.
    """

    def __init__(self, replica: str, reason: str) -> None:
        super().__init__(f"replica {replica or '(none)'}: {reason}")
        self.replica, self.reason = replica, reason


class ReplicaStream(Protocol):
    """The batches of one request."""

    @property
    def replica(self) -> str:
        """Who has the request; "" while nobody has."""
        ...

    async def next(self) -> Batch | None:
        """The next batch; None: there are no more. It may be cancelled, and called again while nobody has the request.

        Raises:
            ReplicaLostError: the replica has died or cannot be reached.
        """
        ...

    def close(self) -> None:
        """Give up: the replica drops the request. A second call does nothing."""
        ...


class ReplicaLink(Protocol):
    """Sends requests to replicas."""

    def open(self, request: EngineRequest, avoid: Collection[str]) -> ReplicaStream:
        """Send a request to the replica that suits it best; not to one of ``avoid`` if there is another."""
        ...
