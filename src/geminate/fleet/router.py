"""The request router of Ray Serve for replicas with prefix caches: the board decides, Ray sends."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from geminate.engine.messages import EngineRequest
from geminate.fleet.board import Board, board_of
from geminate.fleet.messages import ReplicaStats
from geminate.fleet.outbox import Subscription


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Orders replicas by `Board.order`; it lives in the ingress, whose board it fills with what replicas publish."""

    def initialize_state(self, **kwargs: Any) -> None:
        """See Ray; ``max_running`` is that of `Board`."""
        self.board: Board = board_of(self._deployment_id.name, kwargs["max_running"])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See Ray: ranks of replicas, of which the first with room gets the request."""
        first = pending_request.args[0] if pending_request is not None and pending_request.args else None
        if isinstance(first, Subscription):
            wanted = [one for one in candidate_replicas if one.replica_id.unique_id == first.replica]
            # One that has gone: another one ends the call. Without a choice Ray would ask again without a pause.
            return [wanted or candidate_replicas]
        request = _request(pending_request)
        if request is None or pending_request is None:
            return [candidate_replicas]
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if not by_name:
            return []
        order = self.board.order(request, list(by_name), pending_request.args[1])
        self.board.chosen(request.request_id, order[0])
        return [[by_name[name]] for name in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """See Ray."""
        request = _request(pending_request)
        if request is not None:
            self.board.sent(request, replica_id.unique_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See Ray; called for new statistics too."""
        super().update_replicas(replicas)
        self.board.update(
            {
                replica.replica_id.unique_id: ReplicaStats.from_dict(replica.routing_stats)
                if replica.routing_stats
                else None
                for replica in replicas
            }
        )

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """See Ray."""
        super().on_replica_actor_died(replica_id)
        self.board.gone(replica_id.unique_id)


def _request(pending: PendingRequest | None) -> EngineRequest | None:
    """What `ReplicaEngine.generate` is called with; None for other calls."""
    first = pending.args[0] if pending is not None and pending.args else None
    return first if isinstance(first, EngineRequest) else None
