"""The events of all requests of one ingress at one replica in a single stream: a message costs more than its content.

A request is a call of its own, by which Ray counts it, routes it and notices that its replica has died; its batches
travel in parcels, together with those of all other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from geminate.engine.messages import EngineEvent
from geminate.fleet.messages import Batch

PACE_S = 0.005  # between two parcels: a small model makes more events than are worth a message each
SUBSCRIBED_S = 10.0  # within which an ingress that sends requests has to subscribe

Parcel = list[tuple[int, tuple[Any, ...]]]
"""For each request the number of its batches, and these as one, `packed`."""


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


def merged(batches: list[Batch]) -> Batch:
    """Batches of one request that follow each other, as one."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        replica=batches[0].replica,
        proof=next((batch.proof for batch in batches if batch.proof), ""),
        events=tuple(event for batch in batches for event in batch.events),
        prompt=next((batch.prompt for batch in reversed(batches) if batch.prompt is not None), None),
        failure=batches[-1].failure,
    )


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
    """What one ingress is to be sent.

    Attributes:
        gone: set when nobody takes it any more.
    """

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self._batches: deque[tuple[str, Batch]] = deque()
        self._news, self._woken = asyncio.Event(), False
        self._loop = asyncio.get_running_loop()

    def put(self, request_id: str, batch: Batch) -> None:
        """Send a batch with the next parcel; in any thread."""
        self._batches.append((request_id, batch))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                self._loop.call_soon_threadsafe(self._news.set)

    async def parcels(self) -> AsyncIterator[Parcel]:
        """What there is, at most every `PACE_S`; never ends."""
        while True:
            await self._news.wait()
            self._news.clear()
            self._woken = False  # before the queue is emptied: what comes now is in this parcel or wakes again
            found: dict[str, list[Batch]] = {}
            while self._batches:
                request_id, batch = self._batches.popleft()
                found.setdefault(request_id, []).append(batch)
            if found:
                yield [(len(batches), packed(name, merged(batches))) for name, batches in found.items()]
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
                former.gone.set()
            outbox = self._open[ingress] = Outbox()
            self._changed.notify_all()
        try:
            async for parcel in outbox.parcels():
                yield parcel
        finally:
            outbox.gone.set()
            if self._open.get(ingress) is outbox:
                del self._open[ingress]
