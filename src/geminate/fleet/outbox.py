"""The events of all requests of one ingress at one replica in a single stream: a message costs more than its content.

A request is a call of its own, by which Ray counts it, routes it and notices that its replica has died; its batches
travel in parcels, together with those of all other requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from geminate.engine.messages import EngineEvent
from geminate.fleet.messages import Batch

PACE_S = 0.005  # between two parcels: a small model makes more events than are worth a message each
SUBSCRIBED_S = 10.0  # within which an ingress that sends requests has to subscribe

Parcel = list[tuple[Any, ...]]
"""(request id, and `Batch`, plain events as tuples) for each batch."""


class UnsubscribedError(Exception):
    """The ingress of a request does not take its events, or no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """An ingress asks a replica for its events.

    Attributes:
        ingress: the name that its requests bear. replica: whose events.
    """

    ingress: str
    replica: str


def packed(request_id: str, batch: Batch) -> tuple[Any, ...]:
    """A batch for a parcel. Tuples are written and read several times as fast as dataclasses."""
    events = tuple(_plain(event) for event in batch.events)
    return request_id, batch.replica, batch.proof, events, batch.prompt, batch.failure


def _plain(event: EngineEvent) -> tuple[Any, ...] | EngineEvent:
    """Of most events only these differ from the defaults."""
    if (
        event.finish_reason is None
        and event.logits is None
        and event.error is None
        and event.progress is None
        and not event.logprobs
        and not event.prompt_logprobs
        and event.stop_token is None
        and event.stats is None
    ):
        return (
            event.choice,
            event.position,
            event.token_ids,
            event.drafted,
            event.accepted,
            event.source,
            event.reason,
        )
    return event


def unpacked(entry: tuple[Any, ...]) -> tuple[str, Batch]:
    """The request id and the batch of `packed`."""
    request_id, replica, proof, events, prompt, failure = entry
    made = tuple(
        event if isinstance(event, EngineEvent) else _event(request_id, *event)  # most of them are tuples
        for event in events
    )
    return request_id, Batch(replica=replica, proof=proof, events=made, prompt=prompt, failure=failure)


def _event(
    request_id: str,
    choice: int,
    position: int,
    token_ids: tuple[int, ...],
    drafted: int,
    accepted: int,
    source: Any,
    reason: Any,
) -> EngineEvent:
    return EngineEvent(
        request_id=request_id,
        choice=choice,
        position=position,
        token_ids=token_ids,
        drafted=drafted,
        accepted=accepted,
        source=source,
        reason=reason,
    )


class Outbox:
    """What one ingress is to be sent."""

    def __init__(self) -> None:
        self._entries: Parcel = []
        self._news = asyncio.Event()
        self.closed = False

    def put(self, request_id: str, batch: Batch) -> None:
        """Send a batch with the next parcel.

        Raises:
            UnsubscribedError: nobody takes it any more.
        """
        if self.closed:
            raise UnsubscribedError(f"the ingress of request {request_id} has gone")
        self._entries.append(packed(request_id, batch))
        self._news.set()

    async def parcels(self) -> AsyncIterator[Parcel]:
        """What there is, at most every `PACE_S`; never ends."""
        while True:
            await self._news.wait()
            parcel, self._entries = self._entries, []
            self._news.clear()
            yield parcel
            await asyncio.sleep(PACE_S)


class Outboxes:
    """The outboxes of a replica, by ingress."""

    def __init__(self) -> None:
        self._open: dict[str, Outbox] = {}
        self._changed = asyncio.Condition()

    async def of(self, ingress: str) -> Outbox:
        """The outbox of an ingress, which may be about to subscribe.

        Raises:
            UnsubscribedError: it does not.
        """
        try:
            async with asyncio.timeout(SUBSCRIBED_S), self._changed:
                await self._changed.wait_for(lambda: ingress in self._open)
                return self._open[ingress]
        except TimeoutError:
            raise UnsubscribedError(f"ingress {ingress} takes no events") from None

    async def parcels(self, ingress: str) -> AsyncIterator[Parcel]:
        """All that this ingress is sent; its requests end with the iteration."""
        async with self._changed:
            former = self._open.pop(ingress, None)
            if former is not None:
                former.closed = True
            outbox = self._open[ingress] = Outbox()
            self._changed.notify_all()
        try:
            async for parcel in outbox.parcels():
                yield parcel
        finally:
            outbox.closed = True
            if self._open.get(ingress) is outbox:
                del self._open[ingress]
