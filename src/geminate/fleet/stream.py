"""A client's stream at the ingress: what was emitted, and the request that another replica goes on with."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.open_requests import Sink
from geminate.engine.stats import Stats
from geminate.fleet.link import ReplicaLostError
from geminate.fleet.messages import Batch

GRACE_S = 1.0  # by which a replica's time limit is later than the ingress's, whose error the client gets


@dataclass(eq=False, slots=True)
class Completion:
    """One completion of a request so far.

    Attributes:
        ids: emitted tokens. done: whether its last event has come.
        counted: statistics of all events. before: the same when its latest replica was lost.
        first: when its first token came.
    """

    ids: list[int] = field(default_factory=list)
    done: bool = False
    counted: Stats = field(default_factory=Stats)
    before: Stats | None = None
    first: float | None = None

    def take(self, event: EngineEvent, now: float) -> None:
        """Add an event with tokens; the last one gets the statistics of the whole completion."""
        if self.first is None:
            self.first = now
        self.ids.extend(event.token_ids)
        self.counted.generated_tokens += len(event.token_ids)
        self.counted.count_round(event.drafted, event.accepted, copied=event.source == "ngram", reason=event.reason)
        if event.finish_reason is not None:
            self.done = True
            if event.stats is not None and self.before is not None:
                event.stats = event.stats.behind(self.before)

    def lost(self, began: float, now: float) -> None:
        """Its replica is lost, and another one goes on behind its tokens."""
        if self.first is not None:
            self.before = copy.deepcopy(self.counted)
            self.before.prefill_s, self.before.decode_s = self.first - began, now - self.first


class OpenStream:
    """A request from `FleetService.submit` until its last event.

    Attributes:
        arrived, deadline: seconds on `time.perf_counter`'s clock.
        prompt: prompt tokens processed, and prompt tokens, as a replica said last.
        losses: replicas that were lost under it. proof: of the replica that has emitted its tokens.
        task: follows it.
    """

    def __init__(self, request: EngineRequest, sink: Sink) -> None:
        self.request, self.sink = request, sink
        self.completions = {choice: Completion() for choice in range(request.choice, request.choice + request.n)}
        self.arrived = time.perf_counter()
        self.deadline = math.inf if request.timeout_s is None else self.arrived + request.timeout_s
        self.prompt: tuple[int | None, int] = (None, len(request.prompt_ids))
        self.losses, self.proof = 0, ""
        self.task: asyncio.Task[None] | None = None
        self._parts = itertools.count(1)

    @property
    def emitted(self) -> int:
        """Tokens of all completions."""
        return sum(len(one.ids) for one in self.completions.values())

    def unfinished(self, part: EngineRequest) -> bool:
        """Whether a completion of this part of the request has not ended."""
        return any(not one.done for one in self._of(part))

    def take(self, batch: Batch) -> tuple[EngineEvent, ...]:
        """Note what a replica has sent; the events that the client gets.

        Raises:
            ReplicaLostError: tokens that do not follow those that were emitted: this replica is not to be trusted.
        """
        if batch.prompt is not None:
            self.prompt = batch.prompt
        if batch.proof:
            if self.emitted and batch.proof != self.proof:
                raise ReplicaLostError(batch.replica, "it computes other bits than the replica that was lost")
            self.proof = batch.proof
        now, fresh = time.perf_counter(), []
        for event in batch.events:
            one = self.completions[event.choice]
            event.request_id = self.request.request_id
            if event.progress is not None:
                if one.ids:
                    continue
            elif event.position != len(self.request.prompt_ids) + len(one.ids) or one.done:
                raise ReplicaLostError(
                    batch.replica,
                    f"it sent position {event.position} where {len(self.request.prompt_ids) + len(one.ids)} was due",
                )
            else:
                one.take(event, now)
            fresh.append(event)
        return tuple(fresh)

    def parts(self, part: EngineRequest) -> list[EngineRequest]:
        """What is left of a part whose replica is lost, as requests of their own."""
        now = time.perf_counter()
        left = [choice for choice in range(part.choice, part.choice + part.n) if not self.completions[choice].done]
        left_s = None if self.request.timeout_s is None else max(0.0, self.deadline - now) + GRACE_S
        part = replace(part, timeout_s=left_s)
        for choice in left:
            self.completions[choice].lost(self.arrived, now)
        if part.n == len(left) and not any(self.completions[choice].ids for choice in left):
            return [replace(part, request_id=self._name())]
        return [self._alone(part, choice) for choice in left]

    def _alone(self, part: EngineRequest, choice: int) -> EngineRequest:
        ids = self.completions[choice].ids
        alone = replace(part, request_id=self._name(), choice=choice, n=1)
        return replace(alone.continued(ids), prompt_logprobs=None, want_progress=False) if ids else alone

    def _name(self) -> str:
        """Another request id: the lost replica may still know the former one."""
        return f"{self.request.request_id}~{next(self._parts)}"

    def _of(self, part: EngineRequest) -> Iterator[Completion]:
        return (self.completions[choice] for choice in range(part.choice, part.choice + part.n))
