"""How a request reaches an engine and its events come back: from threads (`EngineClient`) or an event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.open_requests import Sink
from geminate.engine.service import ServiceSnapshot

LEAST_GAP = 0.005  # seconds between two batches of events of one stream
MOST = 64  # events that are handed over at once


class EngineClient(Protocol):
    """What a user of an engine needs, wherever the engine runs; only plain data crosses.

    `EngineService` is one in this process.
    """

    def submit(self, request: EngineRequest) -> str:
        """Submit a request; returns its id.

        Raises:
            ServiceError, ContextLengthError, ParameterError: it is not taken.
        """
        ...

    def events(self, *request_ids: str) -> Iterator[EngineEvent]:
        """Events of open requests as they come, until all of them have ended; leaving the iteration cancels the rest.

        Raises:
            GeminateError: what ended one of the requests.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Cancel a request; after its end this does nothing."""
        ...


class Service(Protocol):
    """What a server uses of an `EngineService`, or of a fleet of them.

    Attributes:
        engine: knows the limits of requests and of the KV cache; only an `EngineService` steps it.
    """

    engine: Engine

    def submit(self, request: EngineRequest, sink: Sink) -> str:
        """See `EngineService.submit`."""
        ...

    def cancel(self, request_id: str) -> None:
        """See `EngineService.cancel`."""
        ...

    def drain(self) -> None:
        """Refuse new requests; the open ones go on to their end."""
        ...

    @property
    def failed(self) -> bool:
        """Whether nothing will be answered any more."""
        ...

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        ...

    def snapshot(self) -> ServiceSnapshot:
        """The state now."""
        ...

    def prompt_progress(self, prefix: str) -> tuple[int | None, int] | None:
        """See `EngineService.prompt_progress`."""
        ...


class AsyncEvents:
    """The events of one request in an event loop: iterate over `batches`; `cancel` gives up.

    Args:
        service: started, if it is an `EngineService`, so that it steps in a thread of its own.

    Raises:
        ServiceError, ContextLengthError, ParameterError: the request is not taken.
    """

    def __init__(self, service: Service, request: EngineRequest) -> None:
        self.request = request
        self.arrived = time.perf_counter()
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events: deque[EngineEvent] = deque()
        self._ready = asyncio.Event()
        self._unfinished = request.n
        self._woken = False
        self.closed = False
        service.submit(request, self._put)

    def _put(self, events: list[EngineEvent]) -> None:
        """Called in the thread that steps."""
        with self._lock:
            self._events.extend(events)
            wake = not self._woken and not self.closed
            self._woken = True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:  # the loop is closed: no one is waiting for events
                self.closed = True

    def cancel(self) -> None:
        """Cancel, in the event loop: memory is free within a round, the iteration ends. A second call does nothing."""
        if not self.closed:
            self.closed = True
            self._ready.set()
            self._service.cancel(self.request.request_id)

    async def batches(self) -> AsyncIterator[list[EngineEvent]]:
        """Events as they come, as many at once as there are.

        Raises:
            RequestTimeoutError: the request's time is over.
            GeminateError: what else ended it.
        """
        last = -math.inf
        try:
            while self._unfinished and not self.closed:
                await self._ready.wait()
                # A small model makes thousands of events a second; handing each over costs more than making it.
                early = last + LEAST_GAP - time.perf_counter()
                if early > 0:
                    await asyncio.sleep(early)
                last = time.perf_counter()
                with self._lock:
                    events = [self._events.popleft() for _ in range(min(MOST, len(self._events)))]
                    more = bool(self._events)
                    if not more:
                        self._ready.clear()
                        self._woken = False
                if more:
                    await asyncio.sleep(0)  # a backlog, perhaps of a client that has gone: others take turns with it
                failed = next((i for i, event in enumerate(events) if event.error is not None), None)
                fine = events[:failed]
                self._unfinished -= sum(event.finish_reason is not None for event in fine)
                if fine:
                    yield fine
                if failed is not None:
                    error = events[failed].error
                    assert error is not None
                    raise error
        finally:
            self.cancel()
