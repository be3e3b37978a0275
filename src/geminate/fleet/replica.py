"""One engine of a fleet: takes requests as plain data, sends batches of events, says how it fares."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator
from dataclasses import replace

from geminate.engine.client import AsyncEvents
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
ANY = 100_000  # waiting requests: the ingress counts them for the whole fleet


class ReplicaEngine:
    """An engine service whose events leave the process.

    Args:
        name: its id in the fleet. proof: what its fixed run has given.
    """

    def __init__(self, name: str, llm: LLM, settings: Settings, *, proof: str = "") -> None:
        self.name, self.llm, self.proof = name, llm, proof
        self.service = make_service(llm, replace(settings, max_waiting=ANY))
        self.service.start()

    async def generate(self, request: EngineRequest) -> AsyncIterator[Batch]:
        """The batches of a request; leaving the iteration cancels it."""
        yield Batch(replica=self.name, proof=self.proof)
        try:
            preparing = asyncio.ensure_future(self._grammar(request))
            while not (await asyncio.wait({preparing}, timeout=BEAT_S))[0]:
                yield Batch(replica=self.name)
            grammar = preparing.result()  # kept until the end: the engine only starts grammars that are compiled
            stream = AsyncEvents(self.service, request)
        except Exception as error:
            yield Batch(replica=self.name, failure=Failure.of(error))
            return
        source = stream.batches()
        task: asyncio.Future[list[EngineEvent] | None] | None = None
        try:
            began, passes = False, -1
            while True:
                task = asyncio.ensure_future(anext(source, None))
                while not (await asyncio.wait({task}, timeout=BEAT_S))[0]:
                    # A loop that runs proves nothing: the engine itself has to have got on.
                    if self.service.engine.passes != passes:
                        passes = self.service.engine.passes
                        yield self._beat(request, began)
                try:
                    events = task.result()
                except Exception as error:
                    yield Batch(replica=self.name, failure=Failure.of(error))
                    return
                if events is None:
                    return
                began = True
                yield Batch(replica=self.name, events=tuple(events))
        finally:
            del grammar
            stream.cancel()
            if task is not None and not task.done():
                task.cancel()

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
