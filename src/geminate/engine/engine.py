"""The one loop: every token of every sequence, drafted or not, comes out of `Engine.step`.

A pass takes rows of all running sequences: a part of a prompt, or the last token and its draft. Plain decoding is an
empty draft. By the numeric contract a row's logits do not depend on the rows beside it, so neither chunking, nor other
requests in the batch, nor speculation can change what is emitted.

Sequences join and leave between passes. Where KV memory is bounded they wait for theirs, in order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from geminate.arrays import F32
from geminate.decoding.constraint import Constraint
from geminate.engine import masks
from geminate.engine.admission import Admission
from geminate.engine.commit import Verifier, commit, draw_ahead
from geminate.engine.conversations import Conversations
from geminate.engine.drafting import draft_all, observe
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.pace import MAX_GAP_S
from geminate.engine.scheduler import Scheduler, Turn
from geminate.engine.sequence import Sequence, StopCheck
from geminate.engine.timing import Timing
from geminate.errors import ContextLengthError, EngineFailedError, GeminateError, GrammarError, ParameterError, shown
from geminate.kv.budget import KVBudget, nothing_behind
from geminate.kv.prefix_store import PrefixStore
from geminate.runtime.target import TargetModel
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Drafter
from geminate.speculation.policy import make_policy
from geminate.speculation.verify import verify

log = logging.getLogger(__name__)


class Engine:
    """Runs sequences to their end. One thread at a time may use it; `geminate.engine.service` shares it among many.

    Args:
        target: the compiled target.
        drafter: proposes tokens; with None, only prompt-lookup (n-gram) drafts are made.
        prefill_chunk: maximum number of prompt tokens of one sequence in a pass.
        prefill_share: maximum number of prompt tokens of all sequences in a pass that also decodes; None: what
            ``max_gap_s`` allows.
        max_gap_s: seconds between two tokens of a sequence that prompts beside it may cause; see
            `geminate.engine.pace`.
        max_running: maximum number of sequences that run at once; None: as many as a pass has rows for.
        memory: KV budget and prefix cache; None: unbounded, and only conversations keep their caches.
        store: where prompts' blocks outlive the process; None: nowhere.
        costs: what passes and draft steps cost here; without it, they are learned on the way.
        constraints: makes the fresh state of a grammar from its source text; None: no grammars.
        stop_checks: makes the check for a request's stop strings; None: no stop strings.
        verifier: compares drafts with draws; anything but the default is for benchmarks.
        copies: whether ``auto`` may make prompt-lookup (n-gram) drafts.
        clock: seconds: what prompts grow older by, and what passes are timed with.

    Attributes:
        passes: forward passes since the start.
        running: sequences in the order they began. waiting: in the order they came; see `geminate.engine.admission`.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter | None,
        *,
        prefill_chunk: int = 256,
        prefill_share: int | None = None,
        max_gap_s: float = MAX_GAP_S,
        max_running: int | None = None,
        memory: KVBudget | None = None,
        store: PrefixStore | None = None,
        costs: CostModel | None = None,
        constraints: Callable[[str], Constraint] | None = None,
        stop_checks: Callable[[EngineRequest], StopCheck] | None = None,
        verifier: Verifier = verify,
        copies: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if max_running is not None and not 1 <= max_running < target.max_rows:
            raise ParameterError(f"max_running must be 1 to {target.max_rows - 1}, not {max_running}")
        self.target = target
        self.drafter = drafter
        self.max_running = max_running or target.max_rows - 1
        self.memory = memory
        self.store = store
        self.timing = Timing(costs or CostModel(), max_gap_s, clock)
        self.scheduler = Scheduler(
            max_rows=target.max_rows,
            prefill_chunk=prefill_chunk,
            prefill_share=prefill_share,
            beside=self.timing.prompt_rows,
            clock=clock,
        )
        self.acceptance = AcceptanceStats()
        self.conversations = Conversations(target.new_cache)
        self.passes = 0
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._admission = Admission(clock)
        self._constraints = constraints
        self._stop_checks = stop_checks
        self._verifier = verifier
        self._sampler = target.backend.sampler
        self._copies = copies
        self._clock = clock

    def add(self, request: EngineRequest, *, choice: int | None = None) -> Sequence:
        """Queue one completion of a request.

        Args:
            choice: its index; None is the request's own.

        Raises:
            ContextLengthError, ParameterError: see `check`.
            GrammarError: the emitted tokens of a continued request do not fit its grammar.
        """
        self.check(request)
        constraint = stop_check = None
        if request.grammar is not None and self._constraints is not None:
            constraint = self._constraints(request.grammar)
        if request.sampling.stop and self._stop_checks is not None:
            stop_check = self._stop_checks(request)
        choice = request.choice if choice is None else choice
        sequence = Sequence(
            request,
            choice=choice,
            sampler=self._sampler.sequence(request.sampling, choice, request.prompt_ids),
            max_context=self._max_context(request),
            policy=make_policy(
                request.speculation, self.drafter, self.timing.costs, self.acceptance, copies=self._copies
            ),
            eos_ids=frozenset(self.target.config.eos_token_ids),
            constraint=constraint,
            stop_check=stop_check,
            arrived=self._clock(),
        )
        self.waiting.append(sequence)
        return sequence

    def check(self, request: EngineRequest) -> None:
        """Refuse what `add` would refuse, without queueing it; reads nothing that a step changes.

        Raises:
            ContextLengthError: the prompt leaves no room for a completion, or could never get its KV memory.
            ParameterError: an empty prompt, ids outside the vocabulary, drafts from an engine without a drafter, stop
                strings or a grammar without a tokenizer, a conversation where KV memory is bounded.
        """
        self._check_ids(request)
        if isinstance(request.speculation, int) and request.speculation > 0 and self.drafter is None:
            raise ParameterError(
                f"speculation {request.speculation} needs a drafter and this model was loaded without one; "
                "name one with --drafter or use speculation 'auto', 'ngram' or 'off'"
            )
        if request.sampling.stop and self._stop_checks is None:
            raise ParameterError("stop strings need a tokenizer, and this model has none; use stop_token_ids")
        if request.grammar is not None and self._constraints is None:
            raise ParameterError("a grammar needs a tokenizer, and this model has none")
        if request.conversation is not None and request.prompt_logprobs is not None:
            raise ParameterError("prompt_logprobs need the whole prompt, of which a conversation keeps a part")
        if request.conversation is not None and self.memory is not None:
            raise ParameterError("with bounded KV memory the prefix cache takes the place of named conversations")
        self._check_memory(request)

    def _check_ids(self, request: EngineRequest) -> None:
        vocab, limit = self.target.config.vocab_size, self.target.config.max_position_embeddings
        ids = [*request.prompt_ids, *request.emitted_ids]
        if not request.prompt_ids:
            raise ParameterError("the prompt is empty: at least one token is needed")
        if min(ids) < 0 or max(ids) >= vocab:
            bad = next(t for t in ids if not 0 <= t < vocab)
            raise ParameterError(f"token id {shown(bad)} is outside the vocabulary of {vocab}")
        if len(request.emitted_ids) >= request.sampling.max_tokens and request.emitted_ids:
            raise ParameterError(
                f"{len(request.emitted_ids)} tokens are emitted already and max_tokens is "
                f"{request.sampling.max_tokens}: nothing is left to continue"
            )
        if len(ids) >= limit:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens and the context holds {limit}; "
                "shorten the prompt to leave room for the answer"
            )

    def _check_memory(self, request: EngineRequest) -> None:
        if self.memory is None:
            return
        context, prompt = self._max_context(request), len(request.prompt_ids)
        need = self.memory.need(context)
        if need > self.memory.limit:
            raise ContextLengthError(
                f"{prompt} prompt tokens and an answer of up to {context - prompt} need "
                f"{need / 1e6:,.1f} MB of KV cache, and the budget is {self.memory.limit / 1e6:,.1f} MB; "
                "shorten the prompt, ask for fewer tokens, or give the server more memory for the KV cache"
            )

    def _max_context(self, request: EngineRequest) -> int:
        """Positions that a sequence may come to hold."""
        limit = self.target.config.max_position_embeddings
        return limit if self.memory is None else min(limit, len(request.prompt_ids) + request.sampling.max_tokens)

    def _admit(self) -> list[EngineEvent]:
        """Let waiting sequences begin, as far as there is room; events of those that cannot."""
        failed: list[EngineEvent] = []
        if not self.waiting or len(self.running) >= self.max_running:
            return failed
        for sequence in self._admission.candidates(list(self.waiting), list(self.running)):
            try:
                begun = self._begin(sequence)
            except Exception as error:  # no memory for its cache, say: the others go on
                self.abort(sequence)
                failed.append(_failure(sequence, error))
                continue
            if begun:
                self.waiting.remove(sequence)
                self.running.append(sequence)
                self._admission.began(sequence.request.client)
                if len(self.running) == self.max_running:
                    break
        return failed

    def _begin(self, sequence: Sequence) -> bool:
        """Give a sequence its cache; False while its bytes are not there."""
        request, reuse = sequence.request, not sequence.scores_prompt
        if self.store is not None and sequence.stored is None:
            sequence.stored = self.store.prompt(request.prompt_ids, request.contents)
        stored = sequence.stored
        if self.memory is None:
            cache = self.conversations.take(request, sequence.token_ids)
            if stored is not None and reuse:
                cache = stored.fill(cache, self.target.new_cache)
            sequence.begin(cache)
            return True
        if stored is not None and reuse and self.running and self.memory.fits(sequence.max_context):
            sequence.reading = not stored.read_ahead(self.memory.known(sequence.token_ids, request.contents))
            if sequence.reading:
                return False
        behind = nothing_behind if stored is None else stored.behind
        lease = self.memory.lease(
            sequence.token_ids, sequence.max_context, request.contents, reuse=reuse, behind=behind
        )
        if lease is None:
            return False
        sequence.begin(lease.cache, lease)
        return True

    def abort(self, sequence: Sequence) -> None:
        """End a sequence now; what it has emitted stays valid, its memory is free."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "abort"
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
            if sequence.constraint is not None:
                sequence.constraint.close()
            if sequence.lease is not None:  # it was interrupted while it began
                self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.constraint is not None:
            sequence.constraint.close()
        name = sequence.request.conversation
        if self.memory is not None and sequence.lease is not None:
            self.memory.release(sequence.lease)
            sequence.lease = None
        elif name is not None:
            self.conversations.keep(name, sequence.cache, sequence.token_ids, sequence.request.contents)
        del sequence.cache

    def step(self) -> list[EngineEvent]:
        """One forward pass over rows of the running sequences; what each emitted, or the error that ended it."""
        self.timing.begin()
        failed = self._admit()
        turns, room = self.scheduler.turns(self.running)
        if not turns:
            masks.wait_for_one(self.running)
            return failed
        masks.begin_round(turns, self.timing.last_pass)
        draft_all(turns, room)
        masks.ask_ahead(turns)
        self.timing.drafted()
        hidden, logits = self.target.extend([turn.rows() for turn in turns])
        self.passes += 1
        self.timing.passed()
        events = self._commit_all(turns, hidden, logits)
        self.timing.observe(turns, events)
        self._retire()
        return failed + events if failed else events

    def _commit_all(self, turns: list[Turn], hidden: F32, logits: F32) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        row = 0
        for turn, ahead in zip(turns, draw_ahead(turns, logits, self._sampler), strict=True):
            own = slice(row, row + turn.wanted)
            event = self._commit(turn, hidden[own], logits[own], ahead)
            row = own.stop
            if event is not None:
                events.append(event)
                if event.token_ids and not turn.cut:
                    observe(turn)
            if event is None or event.error is None:
                self._keep(turn.sequence)
        return events

    def _keep(self, sequence: Sequence) -> None:
        """Keep the blocks that became full, in memory and in the store."""
        lease, stored = sequence.lease, sequence.stored
        try:
            if self.memory is not None and lease is not None:
                self.memory.capture(lease, sequence.token_ids)
            if stored is not None and not stored.save(sequence.cache):
                sequence.stored = None
        except Exception as error:  # the prefix is not kept; the completion does not need it
            sequence.stored = None
            if lease is not None:
                lease.capturing = False
            log.error("a prefix could not be kept", exc_info=error)

    def _commit(self, turn: Turn, hidden: F32, logits: F32, ahead: list[int]) -> EngineEvent | None:
        """`commit`, where whatever fails is the failure of this sequence alone; or the progress of a prompt."""
        sequence = turn.sequence
        try:
            event = commit(turn, hidden, logits, ahead, self._verifier, self._sampler)
            if turn.wants_logits or not sequence.request.want_progress:
                return event
            name, choice = sequence.request.request_id, sequence.choice
            return EngineEvent(request_id=name, choice=choice, progress=sequence.progress())
        except Exception as error:
            sequence.finish_reason = "abort"
            if isinstance(error, GrammarError) and sequence.constraint is not None:
                sequence.constraint.fail(str(error))
            return _failure(sequence, error)

    def _retire(self) -> None:
        """Take sequences that have ended out of the batch."""
        ended = [s for s in self.running if s.finish_reason is not None]
        if ended:
            self.running = [s for s in self.running if s.finish_reason is None]
            for sequence in ended:
                self._release(sequence)

    def run(self) -> list[EngineEvent]:
        """Step until nothing runs or waits; all events.

        Raises:
            Exception: the error that ended a sequence, once all have ended.
        """
        events: list[EngineEvent] = []
        while self.running or self.waiting:
            events.extend(self.step())
        for event in events:
            if event.error is not None:
                raise event.error
        return events


def _failure(sequence: Sequence, error: Exception) -> EngineEvent:
    """The event of a sequence that failed alone; details go to the log, not to clients."""
    request = sequence.request.request_id
    failure: Exception = error
    if not isinstance(error, GeminateError):
        log.error("request %s failed inside the engine", request, exc_info=error)
        failure = EngineFailedError(f"request {request} failed inside the engine ({type(error).__name__}); see the log")
        failure.__cause__ = error
    return EngineEvent(request_id=request, choice=sequence.choice, finish_reason="abort", error=failure)
