"""Whose request goes to a replica next: as many at once as the replicas decode together, and clients take turns."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_CLIENTS = 1_000  # that are remembered


class Turns:
    """The places of a fleet; used in one event loop.

    Args:
        places: requests that may be with replicas at the same time.
    """

    def __init__(self, places: Callable[[], int]) -> None:
        self._places = places
        self._running: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        self._began: OrderedDict[str, int] = OrderedDict()  # numbers of the latest beginnings
        self._numbers = itertools.count()

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(place)
        self.wake()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self._running[client] -= 1
                if not self._running[client]:
                    del self._running[client]
            else:
                self._forget(client, place)
            self.wake()

    def wake(self) -> None:
        """Give out what places there are: to the client with the fewest, of those to who began longest ago."""
        while self._queues and self.running < self._places():
            client = min(self._queues, key=lambda name: (self._running[name], self._began.get(name, -1)))
            place = self._queues[client].popleft()
            if not self._queues[client]:
                del self._queues[client]
            if place.cancelled():
                continue
            place.set_result(None)
            self._running[client] += 1
            self._began[client] = next(self._numbers)
            self._began.move_to_end(client)
            while len(self._began) > _CLIENTS:
                self._began.popitem(last=False)

    def _forget(self, client: str, place: asyncio.Future[None]) -> None:
        queue = self._queues.get(client)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._queues[client]
