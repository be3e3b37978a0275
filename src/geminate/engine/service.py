"""One engine for many clients: threads, event loops, a server.

Requests and cancellations reach the engine between steps; events are handed to the sink of their request. A service
that was started has a thread that steps; one that was not is stepped by the thread that waits for events, one at a
time, so a single caller pays for no switch of threads.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from geminate.engine.admission import check_place
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.open_requests import EventBox, OpenRequest, Sink
from geminate.errors import DrainingError, EngineFailedError, ParameterError, RequestTimeoutError

MAX_FAILURES = 2  # passes in a row
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServiceSnapshot:
    """The state at a moment; KV figures are 0 where KV memory is unbounded."""

    running: int
    waiting: int
    kv_bytes_used: int = 0
    kv_bytes_kept: int = 0
    kv_bytes_limit: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


class EngineService:
    """Runs an `Engine` for any number of clients; every method may be called from any thread.

    Args:
        engine: used by the service alone while it has open requests.
        on_failure: called in the service's thread when the engine has failed for good.
        max_waiting: maximum number of open requests beyond the engine's ``max_running``; further ones are refused.
            None: no limit. One client may have three quarters of all places.
    """

    def __init__(
        self, engine: Engine, *, max_waiting: int | None = None, on_failure: Callable[[], None] | None = None
    ) -> None:
        self.engine = engine
        self.on_failure = on_failure
        self.max_waiting = max_waiting
        # Not reentrant on purpose: a garbage-collected stream cancels itself wherever the collector happens to run.
        self._lock = threading.Lock()  # taken by itself: leaving a condition runs Python, where an interrupt may come
        self._changed = threading.Condition(self._lock)
        # Added to under the lock, taken out by the thread that steps, without it: others go through a copy.
        self._open: dict[str, OpenRequest] = {}
        self._boxes: dict[str, EventBox] = {}
        self._new: deque[OpenRequest] = deque()
        self._gone: deque[str] = deque()
        self._driver: int | None = None  # ident of the thread that steps the engine now
        self._sleeping = 0  # threads in `wait` that another one steps for
        self._next_deadline = math.inf  # of all open requests, or an earlier time
        self._thread: threading.Thread | None = None
        self._draining = self._stopping = False
        self._failed: BaseException | None = None

    def submit(self, request: EngineRequest, sink: Sink | None = None) -> str:
        """Take a request; returns its id.

        Args:
            sink: receives its events; called in the thread that steps, must not block. None keeps them for `events`.

        Raises:
            QueueFullError: too many wait. DrainingError: no new requests. EngineFailedError: the engine is broken.
            ContextLengthError, ParameterError: the request can never run, or its id is taken.
        """
        if self._failed is not None:
            raise EngineFailedError("the engine has failed; restart the server (its log has the cause)")
        if self._draining or self._stopping:
            raise DrainingError("the server is shutting down and accepts no new requests")
        self.engine.check(request)
        seconds = request.timeout_s
        box = None if sink is not None else EventBox(request.n)
        take = box.events.extend if sink is None and box is not None else sink
        assert take is not None
        made = OpenRequest(request, take, request.n, math.inf if seconds is None else time.perf_counter() + seconds)
        with self._lock:
            if self.max_waiting is not None:
                running = self.engine.max_running
                clients = [opened.request.client for opened in list(self._open.values())]
                check_place(request.client, clients, running + self.max_waiting, running)
            if request.request_id in self._open:
                raise ParameterError(f"a request with the id {request.request_id!r} is open already")
            self._open[request.request_id] = made
            if box is not None:
                self._boxes[request.request_id] = box
            self._next_deadline = min(self._next_deadline, made.deadline)
            self._new.append(made)
            self._changed.notify_all()
        return request.request_id

    def events(self, *request_ids: str) -> Iterator[EngineEvent]:
        """Events of open requests as they come, until all of them have ended; leaving the iteration cancels the rest.

        Raises:
            GeminateError: what ended one of the requests.
        """
        boxes = [self._boxes[request_id] for request_id in request_ids]
        queues = [box.events for box in boxes]
        # Called several times a round: for one completion the answer is a single call.
        ready = queues[0].__len__ if len(queues) == 1 else partial(any, queues)
        try:
            while boxes:
                self.wait(ready)
                for box in boxes:
                    while box.events:
                        yield box.next()
                boxes = [box for box in boxes if box.unfinished]
        finally:
            for request_id in request_ids:
                self.cancel(request_id)

    def cancel(self, request_id: str) -> None:
        """Cancel a request: no more events, its memory is free before the next step. Unknown ids are fine.

        Called by the garbage collector too, so it takes no lock that this thread may hold.
        """
        box = self._boxes.pop(request_id, None)
        if box is not None and not box.unfinished:
            return
        self._gone.append(request_id)
        held = [False]
        try:
            self._cancel_now(held)
        finally:
            self._let_go(held)  # an interrupt may have come while the one inside ended

    def _cancel_now(self, held: list[bool]) -> None:
        """Drop what is cancelled if no thread is about to; ``held[0]``: whether the lock is held."""
        try:
            held[0] = self._lock.acquire(blocking=False)
            if held[0]:
                if self._driver is None and self._thread is None:
                    self._drop_cancelled()
                self._changed.notify_all()
        finally:
            self._let_go(held)

    def _let_go(self, held: list[bool]) -> None:
        if held[0]: held[0] = False; self._lock.release()  # no interrupt in between  # noqa: E701, E702  # fmt: skip

    def forget(self, conversation: str) -> None:
        """Free a conversation's cache."""
        self.engine.conversations.forget(conversation)

    def wait(self, ready: Callable[[], object]) -> None:
        """Block until ``ready()``, stepping the engine if no other thread does. ``ready`` must not block.

        Raises:
            BaseException: what a step made here raises; all requests have failed then, and later ones are fine.
        """
        while not ready():
            try:
                self._drive(ready)
            finally:
                self._leave()  # an interrupt may have come while the one inside ended

    def _drive(self, ready: Callable[[], object]) -> None:
        """Step the engine until ``ready()``, unless another thread does: then until that one stops."""
        me = threading.get_ident()
        try:
            with self._lock:
                while self._thread is not None or self._driver is not None or self._stopping:
                    if ready():
                        return
                    self._sleep()
                self._driver = me
            self._round()
            while not (ready() or self._stopping):
                if self._sleeping:
                    self._notify()
                self._round()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Let another thread step, if this one did."""
        if self._driver == threading.get_ident():
            with self._lock:
                self._driver = None
                self._changed.notify_all()

    def _sleep(self) -> None:
        """Wait for a change; the lock is held."""
        self._sleeping += 1
        try:
            self._changed.wait()
        finally:
            self._sleeping -= 1

    def start(self) -> None:
        """Give the service a thread of its own that steps."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop at once; what is still open fails with `DrainingError`."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
            while self._driver is not None:
                self._changed.wait()
        if self._thread is not None:
            self._thread.join()
        else:
            self._fail_all(DrainingError("the model was closed before the answer was complete"))
            self._notify()

    def drain(self) -> None:
        """Refuse new requests; the open ones go on to their end."""
        self._draining = True

    @property
    def failed(self) -> bool:
        """Whether the engine has failed for good: nothing will be answered any more."""
        return self._failed is not None

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self._open

    def snapshot(self) -> ServiceSnapshot:
        """The state now; approximate while a step runs."""
        running, waiting = len(self.engine.running), len(self._new) + len(self.engine.waiting)
        memory = self.engine.memory
        if memory is None:
            return ServiceSnapshot(running=running, waiting=waiting)
        return ServiceSnapshot(
            running=running,
            waiting=waiting,
            kv_bytes_used=memory.used,
            kv_bytes_kept=memory.kept,
            kv_bytes_limit=memory.limit,
            prefix_queries=memory.queries,
            prefix_hits=memory.hits,
        )

    def prompt_progress(self, prefix: str) -> tuple[int | None, int] | None:
        """Of the open request whose id begins with ``prefix``: prompt tokens processed, and prompt tokens.

        The first is None while the request waits. None: no such request. Approximate while a step runs.
        """
        with self._lock:
            opened = next((one for name, one in list(self._open.items()) if name.startswith(prefix)), None)
        if opened is None:
            return None
        sequence = opened.sequences.get(opened.request.choice)
        whole = len(opened.request.prompt_ids)
        return (min(sequence.cache.length, whole) if sequence is not None and sequence.begun else None), whole

    def _run(self) -> None:
        failures = 0
        try:
            while self._wait_for_work():
                try:
                    if self._round():
                        failures = 0
                except Exception as error:  # the requests of that pass have failed, their memory is free
                    failures += 1
                    if failures == MAX_FAILURES or not self._is_clean():
                        raise
                    log.error("a pass failed; new requests go on", exc_info=error)
                self._notify()
            self._fail_all(DrainingError("the server was stopped before the answer was complete"))
        except BaseException as error:
            self._failed = error
            log.critical("the engine failed", exc_info=error)
            if self.on_failure is not None:
                self.on_failure()
        finally:
            self._notify()

    def _is_clean(self) -> bool:
        """Whether nothing is left of failed requests: no sequence, no leased memory."""
        engine = self.engine
        return not (engine.running or engine.waiting or (engine.memory is not None and engine.memory.used))

    def _notify(self) -> None:
        with self._lock:
            self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Block while there is nothing to do; False when the service is stopping."""
        engine = self.engine
        with self._lock:
            while not (self._stopping or self._new or self._gone or engine.running or engine.waiting):
                self._changed.wait()
            return not self._stopping

    def _round(self) -> bool:
        """Take in requests and cancellations, step once, hand out the events; whether there was anything to step."""
        try:
            if self._gone:
                self._drop_cancelled()
            while self._new:
                opened = self._new.popleft()
                if opened.request.request_id in self._open:
                    self._begin(opened, opened.request.choice)
            if time.perf_counter() > self._next_deadline:
                self._drop_late()
            busy = bool(self.engine.running or self.engine.waiting)
            self._hand_out(self.engine.step())
            return busy
        except BaseException as error:
            # Whatever interrupted a step, Ctrl-C included, left sequences between two states: none of them goes on.
            failure = EngineFailedError(f"a forward pass failed ({type(error).__name__}); the log has the details")
            failure.__cause__ = error
            self._fail_all(failure)
            raise

    def _begin(self, opened: OpenRequest, choice: int) -> None:
        try:
            opened.sequences[choice] = self.engine.add(opened.request, choice=choice)
        except Exception as error:
            self._fail(opened, error)

    def _drop_cancelled(self) -> None:
        while self._gone:
            self._close(self._gone.popleft())

    def _drop_late(self) -> None:
        now = time.perf_counter()
        with self._lock:
            opened_now = list(self._open.values())
            late = [opened for opened in opened_now if opened.deadline < now]
            self._next_deadline = min((o.deadline for o in opened_now if o.deadline >= now), default=math.inf)
        for opened in late:
            seconds = opened.request.timeout_s
            self._fail(opened, RequestTimeoutError(f"the request took longer than the {seconds:g} s it may take"))

    def _close(self, request_id: str) -> None:
        """Take a request out, whatever of it still runs."""
        opened = self._open.pop(request_id, None)
        if opened is not None:
            for sequence in opened.sequences.values():
                self.engine.abort(sequence)

    def _fail(self, opened: OpenRequest, error: Exception) -> None:
        self._close(opened.request.request_id)
        opened.sink([EngineEvent(request_id=opened.request.request_id, finish_reason="abort", error=error)])

    def _fail_all(self, error: Exception) -> None:
        self._new.clear()
        for opened in list(self._open.values()):
            self._fail(opened, error)
        for sequence in [*self.engine.running, *self.engine.waiting]:  # an interrupt came before they were noted
            self.engine.abort(sequence)

    def _hand_out(self, events: list[EngineEvent]) -> None:
        if len(events) == 1:
            self._deliver(events)
            return
        by_request: dict[str, list[EngineEvent]] = {}
        for event in events:
            by_request.setdefault(event.request_id, []).append(event)
        for several in by_request.values():
            self._deliver(several)

    def _deliver(self, events: list[EngineEvent]) -> None:
        """Hand the events of one request to its sink."""
        opened = self._open.get(events[0].request_id)
        if opened is None:
            return
        for event in events:
            if event.error is not None:
                self._fail(opened, event.error)
                return
        self._advance(opened, events)
        opened.sink(events)

    def _advance(self, opened: OpenRequest, events: list[EngineEvent]) -> None:
        """Start a request's further completions behind its first one's prompt; take out what has ended."""
        request = opened.request
        if not opened.begun and events[-1].progress is None:
            opened.begun = True
            for choice in range(request.choice + 1, request.choice + request.n):
                self._begin(opened, choice)
        for event in events:
            if event.finish_reason is not None:
                opened.sequences.pop(event.choice, None)
                opened.unfinished -= 1
        if opened.unfinished == 0:
            self._open.pop(request.request_id, None)
