"""One engine of a fleet: takes requests as plain data, sends batches of events, says how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections.abc import Callable
from dataclasses import replace

from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.errors import EngineFailedError
from geminate.fleet.messages import Batch, Failure, ReplicaStats
from geminate.grammar.state import Grammar
from geminate.llm import LLM
from geminate.server.run import make_service
from geminate.server.settings import Settings
from geminate.speculation.costs import PROFILE_ROWS

BEAT_S = 1.0  # between two signs of life of a request that has nothing else to send
MAX_BLOCKS = 8192  # digests that are published, the most recently used ones
Put = Callable[[Batch], None]
ANY = 100_000  # waiting requests: the ingress counts them for the whole fleet


class _Answer:
    """The events of a request on their way out; `take` is called in the thread that steps."""

    def __init__(self, name: str, request: EngineRequest, put: Put) -> None:
        self.ended, self.batches = asyncio.Event(), 0
        self._name, self._put, self._unfinished = name, put, request.n
        self._loop = asyncio.get_running_loop()

    def take(self, events: list[EngineEvent]) -> None:
        """Send events; an error among them is the last of them."""
        failed = next((i for i, event in enumerate(events) if event.error is not None), None)
        error = None if failed is None else events[failed].error
        fine = tuple(events[:failed])
        self._unfinished -= sum(event.finish_reason is not None for event in fine)
        self.batches += 1
        self._put(Batch(replica=self._name, events=fine, failure=None if error is None else Failure.of(error)))
        if error is not None or not self._unfinished:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                self._loop.call_soon_threadsafe(self.ended.set)


class ReplicaEngine:
    """An engine service whose events leave the process.

    Args:
        name: its id in the fleet. proof: what its fixed run has given.
    """

    def __init__(self, name: str, llm: LLM, settings: Settings, *, proof: str = "") -> None:
        self.name, self.llm, self.proof = name, llm, proof
        self.service = make_service(llm, replace(settings, max_waiting=ANY))
        self.service.start()

    async def answer(self, request: EngineRequest, put: Put) -> None:
        """Answer a request; cancelling this cancels it.

        Args:
            put: takes its batches, in order; called in any thread.
        """
        put(Batch(replica=self.name, proof=self.proof))
        answer = _Answer(self.name, request, put)
        try:
            preparing = asyncio.ensure_future(self._grammar(request))
            while not (await asyncio.wait({preparing}, timeout=BEAT_S))[0]:
                put(Batch(replica=self.name))
            grammar = preparing.result()  # kept until the end: the engine only starts grammars that are compiled
            self.service.submit(request, answer.take)
        except Exception as error:
            put(Batch(replica=self.name, failure=Failure.of(error)))
            return
        passes, batches = -1, 0
        try:
            while not answer.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answer.ended.wait(), BEAT_S)
                # A loop that runs proves nothing: the engine itself has to have got on.
                now = self.service.engine.passes
                if not answer.ended.is_set() and answer.batches == batches and now != passes:
                    put(self._beat(request, bool(batches)))
                passes, batches = now, answer.batches
        finally:
            del grammar
            if not answer.ended.is_set():
                self.service.cancel(request.request_id)

    async def _grammar(self, request: EngineRequest) -> Grammar | None:
        if request.grammar is None:
            return None
        return await asyncio.to_thread(self.llm.grammars.prepare, request.grammar)

    def _beat(self, request: EngineRequest, began: bool) -> Batch:
        prompt = None if began else self.service.prompt_progress(request.request_id)
        return Batch(replica=self.name, prompt=prompt)

    def stats(self) -> ReplicaStats:
        """What it publishes."""
        engine = self.service.engine
        memory, timing = engine.memory, engine.timing
        return ReplicaStats(
            snapshot=self.service.snapshot(),
            pass_s=tuple(timing.costs.pass_time(rows) for rows in range(1, PROFILE_ROWS + 1)),
            prompt_row_s=timing.prompt_row_s,
            blocks=b"" if memory is None else b"".join(memory.digests(MAX_BLOCKS)),
            pid=os.getpid(),
            node=platform.node(),
        )

    def check(self) -> None:
        """Fail if it can answer nothing any more.

        Raises:
            EngineFailedError: so it is.
        """
        if self.service.failed:
            raise EngineFailedError("the engine has failed; the replica's log has the cause")

    def close(self) -> None:
        """Stop at once."""
        self.service.stop()
        self.llm.close()
