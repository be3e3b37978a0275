"""The engine as a service: one thread steps it, an event loop hands in jobs and takes out pieces.

Jobs and cancellations travel to the engine's thread through a queue and are heeded between passes; pieces travel back
in batches, as many as there are when the event loop looks. Nothing here decides what is emitted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from geminate.engine.engine import Emission, Engine
from geminate.engine.sequence import Sequence
from geminate.errors import DrainingError, EngineFailedError, GeminateError, QueueFullError, RequestTimeoutError
from geminate.kv.memory import KVMemory
from geminate.llm import LLM
from geminate.server.jobs import Job, Origin, Piece, Ticket, TokenPiece
from geminate.text.reply import Reply, ReplyDelta

log = logging.getLogger(__name__)
_ORIGINS: dict[str, Origin] = {"mtp": "drafter", "ngram": "copied", "forced": "forced"}


@dataclass(frozen=True, kw_only=True)
class ServiceSnapshot:
    """The state at a moment."""

    running: int
    waiting: int
    kv_bytes_used: int
    kv_bytes_kept: int
    kv_bytes_limit: int
    prefix_queries: int
    prefix_hits: int


@dataclass(eq=False)
class _Answer:
    """One choice of a ticket inside the engine."""

    ticket: Ticket
    choice: int
    reply: Reply
    deltas: list[ReplyDelta] = field(default_factory=list)
    begun: bool = False
    logprobs: int = 0

    def on_token(self, token: int) -> bool:
        self.deltas.extend(self.reply.push(token))
        return self.reply.stopped

    def take(self) -> list[ReplyDelta]:
        taken, self.deltas = self.deltas, []
        return taken


class Service:
    """Continuous batching over an `LLM`.

    Args:
        llm: loaded; nobody else may use its engine while the service runs.
        max_running: most sequences in the passes.
        max_waiting: jobs that may be here beyond ``max_running``; one more is refused.
        kv_bytes: bound of keys and values; None: room for ``max_running`` sequences of 4,096 positions or the
            whole context, whichever is less.
        prefix_cache: whether finished computation is kept for prompts that begin alike.
        prefill_share: most prompt tokens in a pass that also decodes.
    """

    USUAL_CONTEXT = 4096

    def __init__(
        self,
        llm: LLM,
        *,
        max_running: int = 16,
        max_waiting: int = 64,
        kv_bytes: int | None = None,
        prefix_cache: bool = True,
        prefill_share: int = 32,
    ) -> None:
        self.llm = llm
        target = llm.pair.target
        context = min(self.USUAL_CONTEXT, llm.config.max_position_embeddings)
        memory = KVMemory(target.slots, max_rows=target.max_rows, limit=0, keep_prefixes=prefix_cache)
        memory.limit = max_running * memory.need(context) if kv_bytes is None else kv_bytes
        self.memory = memory
        llm.measure_costs()
        self.engine = Engine(
            target, llm.engine.drafter, prefill_chunk=llm.engine.prefill_chunk, prefill_share=prefill_share,
            max_running=max_running, memory=memory, costs=llm.engine.costs,
        )  # fmt: skip
        self.max_waiting = max_waiting
        self._lock = threading.Condition()
        self._new: deque[Ticket] = deque()
        self._gone: deque[Ticket] = deque()
        self._answers: dict[Sequence, _Answer] = {}
        self._open: set[Ticket] = set()
        self._draining = self._stopping = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at once; what still runs fails with `DrainingError`."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread.is_alive():
            self._thread.join()

    def drain(self) -> None:
        """Refuse new jobs; those that are here go on to their end."""
        self._draining = True

    @property
    def idle(self) -> bool:
        """Whether no job is here."""
        with self._lock:
            return not self._open

    def submit(self, job: Job) -> Ticket:
        """Hand a job in; call it from an event loop.

        Raises:
            QueueFullError: too many wait. DrainingError: no new jobs. EngineFailedError: the engine is broken.
            ContextLengthError, ParameterError: the job can never run.
        """
        if self._failed is not None:
            raise EngineFailedError("the engine has failed; restart the server (its log has the cause)")
        if self._draining or self._stopping:
            raise DrainingError("the server is shutting down and takes no new requests")
        sampling = self.llm.resolve(job.params)
        self.engine.check(job.prompt_ids, sampling, job.speculation)
        ticket = Ticket(job, sampling, self._forget)
        with self._lock:
            here = len(self._open)
            if here >= self.engine.max_running + self.max_waiting:
                raise QueueFullError(
                    f"{here} requests are here: {self.engine.max_running} may run and {self.max_waiting} wait; "
                    "try again later"
                )
            self._open.add(ticket)
            self._new.append(ticket)
            self._lock.notify()
        return ticket

    def _forget(self, ticket: Ticket) -> None:
        """A ticket was cancelled or read to its end."""
        with self._lock:
            if ticket in self._open:
                self._gone.append(ticket)
                self._lock.notify()

    def snapshot(self) -> ServiceSnapshot:
        """The state now; approximate while a pass runs."""
        memory = self.memory
        return ServiceSnapshot(
            running=len(self.engine.running), waiting=len(self._new) + len(self.engine.waiting),
            kv_bytes_used=memory.used, kv_bytes_kept=memory.kept, kv_bytes_limit=memory.limit,
            prefix_queries=memory.queries, prefix_hits=memory.hits,
        )  # fmt: skip

    def _run(self) -> None:
        try:
            while self._heed():
                emissions = self.engine.step()
                self._hand_out(emissions)
        except BaseException as error:
            self._failed = error
            log.critical("the engine failed", exc_info=error)
            self._fail_all(EngineFailedError(f"the engine failed: {type(error).__name__}: {error}"))
            return
        self._fail_all(DrainingError("the server was stopped before the answer was complete"))

    def _heed(self) -> bool:
        """Take in what has happened since the last pass, sleeping while there is nothing to do; False to stop."""
        with self._lock:
            while not (self._stopping or self._new or self._gone or self.engine.running or self.engine.waiting):
                self._lock.wait()
            if self._stopping:
                return False
            new, self._new = self._new, deque()
            gone, self._gone = self._gone, deque()
            now = time.perf_counter()
            late = [ticket for ticket in self._open if ticket.deadline < now]
        for ticket in gone:
            self._drop(ticket)
        for ticket in new:
            if ticket in self._open:
                self._begin(ticket, 0)
        for ticket in late:
            seconds = ticket.job.timeout_s
            self._fail(ticket, RequestTimeoutError(f"the request took longer than the {seconds:g} s it may take"))
        return True

    def _begin(self, ticket: Ticket, choice: int) -> None:
        job = ticket.job
        answer = _Answer(ticket, choice, job.make_reply())
        try:
            sequence = self.engine.add(
                job.prompt_ids, ticket.sampling, speculation=job.speculation, choice=choice, on_token=answer.on_token,
                constraint=None if job.grammar is None else job.grammar.start(),
            )  # fmt: skip
        except Exception as error:
            self._fail(ticket, error)
            return
        self._answers[sequence] = answer

    def _drop(self, ticket: Ticket) -> None:
        with self._lock:
            self._open.discard(ticket)
        for sequence in [s for s, answer in self._answers.items() if answer.ticket is ticket]:
            self.engine.abort(sequence)
            del self._answers[sequence]

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self._drop(ticket)
        if not isinstance(error, GeminateError):
            log.error("request %s failed inside the engine", ticket.job.request_id, exc_info=error)
            error = EngineFailedError(f"the request failed inside the engine: {type(error).__name__}")
        ticket.put([error])

    def _fail_all(self, error: GeminateError) -> None:
        with self._lock:
            tickets = [*self._open, *self._new]
        for ticket in tickets:
            self._fail(ticket, error)

    def _hand_out(self, emissions: list[Emission]) -> None:
        for emission in emissions:
            answer = self._answers.get(emission.sequence)
            if answer is None:
                continue  # its job has just failed
            piece = self._piece(answer, emission)
            answer.ticket.put([piece])
            if answer.choice == 0 and not answer.begun:
                answer.begun = True
                # The other answers start from the kept prompt of the first.
                for choice in range(1, answer.ticket.job.n):
                    self._begin(answer.ticket, choice)
            if piece.finish_reason is not None:
                self._answers.pop(emission.sequence, None)
        for sequence, answer in list(self._answers.items()):
            if sequence.error is not None:
                self._fail(answer.ticket, sequence.error)

    def _piece(self, answer: _Answer, emission: Emission) -> Piece:
        sequence = emission.sequence
        finish = sequence.finish_reason
        tokens = emission.token_ids
        source = _ORIGINS[emission.draft.source]
        logprobs = sequence.logprobs[answer.logprobs :]
        answer.logprobs = len(sequence.logprobs)
        text = self.llm.token_text
        pieces = [
            TokenPiece(
                id=token, origin=source if i < emission.accepted else "target", text=text(token),
                logprobs=logprobs[i] if logprobs else None,
            )
            for i, token in enumerate(tokens)
        ]  # fmt: skip
        if finish is not None:
            answer.deltas.extend(answer.reply.flush())
            if answer.reply.stopped:
                finish = "stop"  # bytes held back can complete a stop string only now
        assert finish != "abort"
        return Piece(
            choice=answer.choice, deltas=answer.take(), tokens=pieces, drafted=len(emission.draft.token_ids),
            accepted=min(emission.accepted, len(tokens)), finish_reason=finish,
            stats=sequence.stats if finish is not None else None,
        )  # fmt: skip
