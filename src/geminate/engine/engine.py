"""The one loop: every token of every sequence, drafted or not, comes out of `Engine.step`.

A pass takes rows of all running sequences: a chunk of a prompt, or the last token and its drafts.
Plain decoding is an empty draft. By the numeric contract a row's logits do not depend on the
rows beside it, so neither chunking, company nor speculation can change what is emitted.

Sequences join and leave between passes. Where memory is bounded (`geminate.kv.memory`) they wait, in order, for their
keys' and values' place. Prompts share passes with running answers in small pieces, so that no answer stands still.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from geminate.arrays import F32
from geminate.decoding.constraint import Constraint
from geminate.decoding.sampling import distribution, draw, token_logprobs
from geminate.engine.sequence import Sequence
from geminate.errors import ContextLengthError, ParameterError
from geminate.kv.cache import KVCache
from geminate.kv.memory import KVMemory
from geminate.params import MAX_DRAFT, ResolvedSampling
from geminate.plan.batch import Rows
from geminate.runtime.target import TargetModel
from geminate.speculation.acceptance import Beliefs
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Draft, DraftContext, Drafter
from geminate.speculation.policy import ALONE, AutoPolicy, Company, FixedPolicy, NgramPolicy, Policy
from geminate.speculation.verify import Verdict, verify

PREFILL_SHARE = (
    32  # prompt tokens beside running answers: near the best rate of longer pieces, a fraction of their time
)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows one sequence puts into a pass: ``pending`` tokens, then its drafts."""

    sequence: Sequence
    pending: list[int]
    draft: Draft
    wants_logits: bool

    @property
    def ids(self) -> list[int]:
        return [*self.pending, *self.draft.token_ids]


@dataclass(frozen=True, kw_only=True, slots=True)
class Emission:
    """What one sequence emitted in one pass: ``accepted`` of the draft's guesses, then a token of the target's own.

    A sequence that ends early emits fewer.
    """

    sequence: Sequence
    token_ids: list[int]
    draft: Draft
    accepted: int


class Engine:
    """Runs sequences to their end.

    Args:
        target: the compiled target.
        drafter: what guesses, or None: then only copied text is drafted.
        prefill_chunk: most prompt tokens of one sequence in one pass.
        prefill_share: most prompt tokens of all sequences in a pass that also decodes; None: 32, or what fits.
        max_running: most sequences that run at once; None: as many as a pass has rows for.
        memory: bounds keys and values and keeps prefixes; None: unbounded, nothing kept.
        costs: what passes and draft steps cost here; without, it is learned on the way.

    Attributes:
        running, waiting: sequences in the order they came.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter | None,
        *,
        prefill_chunk: int = 256,
        prefill_share: int | None = None,
        max_running: int | None = None,
        memory: KVMemory | None = None,
        costs: CostModel | None = None,
    ) -> None:
        most = target.max_rows - MAX_DRAFT
        if not 1 <= prefill_chunk <= most:
            raise ParameterError(f"prefill_chunk must be 1 to {most}, not {prefill_chunk}")
        if max_running is not None and not 1 <= max_running < target.max_rows:
            raise ParameterError(f"max_running must be 1 to {target.max_rows - 1}, not {max_running}")
        if prefill_share is None:
            prefill_share = min(PREFILL_SHARE, most)
        if not 1 <= prefill_share <= most:
            raise ParameterError(f"prefill_share must be 1 to {most}, not {prefill_share}")
        self.target = target
        self.drafter = drafter
        self.prefill_chunk = prefill_chunk
        self.prefill_share = prefill_share
        self.max_running = max_running or target.max_rows - 1
        self.memory = memory
        self.costs = costs or CostModel()
        self.beliefs = Beliefs()
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._drafted = False  # whether the last lone round did
        self._turn = 0  # whose prompt goes next

    def add(
        self,
        prompt: list[int],
        sampling: ResolvedSampling,
        *,
        speculation: Literal["auto", "ngram"] | int = "auto",
        choice: int = 0,
        cache: KVCache | None = None,
        on_token: Callable[[int], bool] | None = None,
        on_logits: Callable[[int, F32], None] | None = None,
        constraint: Constraint | None = None,
    ) -> Sequence:
        """Queue a request.

        Args:
            prompt: token ids, at least one.
            speculation: draft length per round, ``auto``, or ``ngram``; see `parse_speculation`.
            choice: index that separates the noise of several answers to one prompt under one seed.
            cache: a cache that already holds a strict prefix of ``prompt`` (an earlier turn); not with bounded memory.
            on_token: told every emitted token in order; returning True ends the generation after it.
            on_logits: told (position, raw logits float32 [vocab]) of every emitted token.
            constraint: a grammar's fresh state; the answer keeps to it.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer, or could never get its memory.
            ParameterError: empty prompt, ids outside the vocabulary, drafts asked of an engine without drafter.
        """
        self.check(prompt, sampling, speculation)
        if cache is not None and self.memory is not None:
            raise ParameterError("an engine with bounded memory hands out its caches itself")
        context = self._context(prompt, sampling) if cache is None else cache.max_context
        sequence = Sequence(
            prompt,
            sampling,
            cache=cache,
            max_context=context,
            policy=self._policy(speculation),
            eos_ids=frozenset(self.target.config.eos_token_ids),
            choice=choice,
            on_token=on_token,
            on_logits=on_logits,
            constraint=constraint,
        )
        self.waiting.append(sequence)
        self._admit()
        return sequence

    def check(
        self, prompt: list[int], sampling: ResolvedSampling, speculation: Literal["auto", "ngram"] | int = "auto"
    ) -> None:
        """Refuse what `add` would refuse, without queueing it; reads nothing that a step changes.

        Raises:
            ContextLengthError, ParameterError: see `add`.
        """
        vocab = self.target.config.vocab_size
        if not prompt:
            raise ParameterError("the prompt is empty: at least one token is needed")
        if min(prompt) < 0 or max(prompt) >= vocab:
            bad = next(t for t in prompt if not 0 <= t < vocab)
            raise ParameterError(f"token id {bad} is outside the vocabulary of {vocab}")
        if isinstance(speculation, int) and speculation > 0 and self.drafter is None:
            raise ParameterError(
                f"speculation {speculation} needs a drafter and this model was loaded without one; "
                "name one with --drafter or use speculation 'auto', 'ngram' or 'off'"
            )
        limit = self.target.config.max_position_embeddings
        if len(prompt) >= limit:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens and the context holds {limit}; "
                "shorten the prompt to leave room for the answer"
            )
        if self.memory is not None:
            context = self._context(prompt, sampling)
            need = self.memory.need(context)
            if need > self.memory.limit:
                raise ContextLengthError(
                    f"{len(prompt)} prompt tokens and an answer of up to {context - len(prompt)} need "
                    f"{need / 1e6:.0f} MB of keys and values, and there are {self.memory.limit / 1e6:.0f} MB in all; "
                    "shorten the prompt, ask for fewer tokens, or give the server more memory for keys and values"
                )

    def _context(self, prompt: list[int], sampling: ResolvedSampling) -> int:
        """Positions that a sequence may come to hold."""
        limit = self.target.config.max_position_embeddings
        return limit if self.memory is None else min(limit, len(prompt) + sampling.max_tokens)

    def _policy(self, speculation: Literal["auto", "ngram"] | int) -> Policy:
        if speculation == "auto":
            return AutoPolicy(self.drafter, self.costs, self.beliefs)
        return NgramPolicy() if speculation == "ngram" else FixedPolicy(self.drafter, speculation)

    def _admit(self) -> None:
        """Let waiting sequences begin, in order, as far as there is room."""
        while self.waiting and len(self.running) < self.max_running:
            sequence = self.waiting[0]
            if self.memory is not None:
                lease = self.memory.lease(sequence.token_ids, sequence.max_context)
                if lease is None:
                    return
                sequence.begin(lease.cache, lease)
            elif not sequence.begun:
                sequence.begin(self.target.new_cache())
            self.running.append(self.waiting.popleft())

    def abort(self, sequence: Sequence) -> None:
        """End a sequence now; what it has emitted stays valid, its memory is free."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "abort"
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if self.memory is not None and sequence.lease is not None:
            self.memory.release(sequence.lease)
            sequence.lease = None
            del sequence.cache

    def step(self) -> list[Emission]:
        """One pass over rows of the running sequences.

        Returns:
            what every sequence that emitted any tokens emitted. A sequence that failed has an ``error`` instead.
        """
        began = time.perf_counter()
        self._admit()
        batch = self._batch()
        if not batch:
            return []
        drafted = time.perf_counter()
        hidden, logits = self._forward(batch)
        passed = time.perf_counter()
        # Only a lone round's times belong to one draft length.
        lone = len(batch) == 1 and batch[0].wants_logits and len(batch[0].pending) == 1
        emissions: list[Emission] = []
        row = head = 0
        for rows in batch:
            count = len(rows.ids)
            heads = len(rows.draft.token_ids) + 1 if rows.wants_logits else 0
            try:
                accepted, tokens = self._commit(rows, hidden[row : row + count], logits[head : head + heads])
            except Exception as error:  # its own callback, grammar or logits; the others go on
                rows.sequence.error, rows.sequence.finish_reason = error, "abort"
                accepted, tokens = 0, []
            row, head = row + count, head + heads
            if tokens:
                emissions.append(
                    Emission(sequence=rows.sequence, token_ids=tokens, draft=rows.draft, accepted=accepted)
                )
                rows.sequence.policy.observe(rows.draft, accepted, time.perf_counter() - began if lone else None)
            if self.memory is not None and rows.sequence.lease is not None and rows.sequence.error is None:
                self.memory.capture(rows.sequence.lease, rows.sequence.token_ids)
        took = time.perf_counter() - began
        if all(rows.wants_logits and len(rows.pending) == 1 for rows in batch):
            self.costs.observe_pass(row, passed - drafted)
        if lone and emissions:
            draft = batch[0].draft
            # The first draft after a pause finds its weights far from the core: no measure for a series of them.
            if draft.steps and self._drafted:
                self.costs.observe_draft(draft.steps, drafted - began)
            self._drafted = draft.steps > 0
            aside = passed - began if draft.steps else passed - drafted
            self.costs.observe_overhead(took - aside, len(emissions[0].token_ids))
        for rows in batch:
            rows.sequence.stats.count_time(took)
            if rows.sequence.finish_reason is not None:
                self._release(rows.sequence)
        self.running = [s for s in self.running if s.finish_reason is None]
        return emissions

    def run(self) -> None:
        """Step until nothing runs.

        Raises:
            Exception: what a sequence failed of.
        """
        several = [*self.running, *self.waiting]
        while self.running or self.waiting:
            self.step()
        for sequence in several:
            if sequence.error is not None:
                raise sequence.error

    def _batch(self) -> list[_Rows]:
        """Rows of the next pass: a row for every answer, pieces of prompts, and drafts in the room that is left."""
        decoding = [s for s in self.running if s.decoding]
        prompts = [s for s in self.running if not s.decoding]
        batch: list[_Rows] = []
        room = self.target.max_rows - len(decoding)
        share = min(room, self.prefill_share if decoding else room)
        if prompts:
            self._turn = (self._turn + 1) % len(prompts) if decoding else 0
            for sequence in prompts[self._turn :] + prompts[: self._turn]:
                if share == 0:
                    break
                piece = sequence.pending[: min(share, self.prefill_chunk)]
                last = len(piece) == len(sequence.token_ids) - sequence.cache.length
                batch.append(_Rows(sequence=sequence, pending=piece, draft=Draft(), wants_logits=last))
                share -= len(piece)
                room -= len(piece)
        prefill = sum(len(rows.pending) for rows in batch)
        others = len(decoding) - 1
        usual = sum(s.policy.usual for s in decoding)
        won = sum(s.policy.won for s in decoding)
        for sequence in decoding:
            company = ALONE
            if others or prefill:
                own = sequence.policy
                company = Company(
                    sequences=others, rows=others + round(usual - own.usual), tokens=others + won - own.won,
                    prompt_rows=prefill,
                )  # fmt: skip
            draft = self._draft(sequence, min(room, sequence.room - 1, MAX_DRAFT), company)
            room -= len(draft.token_ids)
            batch.append(_Rows(sequence=sequence, pending=[sequence.token_ids[-1]], draft=draft, wants_logits=True))
        return batch

    def _draft(self, sequence: Sequence, limit: int, company: Company) -> Draft:
        assert sequence.hidden is not None
        context = DraftContext(
            token_ids=sequence.token_ids,
            hidden=sequence.hidden,
            cache=sequence.cache,
            rule=sequence.rule,
            constraint=sequence.constraint,
        )
        return sequence.policy.draft(context, limit, company)

    def _forward(self, batch: list[_Rows]) -> tuple[F32, F32]:
        return self.target.extend(
            [
                Rows(
                    cache=rows.sequence.cache,
                    ids=rows.ids,
                    wanted=len(rows.draft.token_ids) + 1 if rows.wants_logits else 0,
                )
                for rows in batch
            ]
        )

    def _verify(self, drafts: tuple[int, ...], draw_row: Callable[[int], int]) -> Verdict:
        return verify(drafts, draw_row)

    def _commit(self, rows: _Rows, hidden: F32, logits: F32) -> tuple[int, list[int]]:
        """Verify, emit, roll the cache back to what stays. hidden [rows, width], logits [k + 1, vocab].

        Returns:
            how many drafts were accepted, and the tokens emitted.
        """
        sequence = rows.sequence
        if not rows.wants_logits:
            sequence.hidden = hidden[-1].copy()
            return 0, []
        drafts = rows.draft.token_ids
        start = len(sequence.token_ids)
        sampling = sequence.sampling
        constraint = sequence.constraint

        def draw_row(row: int) -> int:
            counts = sequence.counts.extended(drafts[:row])
            law = distribution(logits[row], sampling, counts, None if constraint is None else constraint.allowed())
            token = draw(law, sampling.seed, sequence.choice, start + row)
            if constraint is not None:
                constraint.advance(token)  # rows are drawn in order, and only after drafts that were right
            return token

        verdict = self._verify(drafts, draw_row)
        emitted: list[int] = []
        for row, token in enumerate(verdict.tokens):
            if sequence.on_logits is not None:
                sequence.on_logits(start + row, logits[row])
            if sampling.logprobs is not None:
                sequence.logprobs.append(token_logprobs(logits[row], token, sampling.logprobs))
            sequence.token_ids.append(token)
            sequence.counts.append(token)
            emitted.append(token)
            sequence.finish_reason = sequence.end_after(token)
            if sequence.finish_reason is not None:
                break
        sequence.cache.truncate(len(sequence.token_ids) - 1)
        # The row that predicted the last token: the drafter's next input.
        sequence.hidden = hidden[len(rows.pending) - 1 + len(emitted) - 1].copy()
        stats = sequence.stats
        copied = rows.draft.source == "ngram"
        stats.count_round(len(drafts), min(verdict.accepted, len(emitted)), copied=copied)
        stats.generated_tokens += len(emitted)
        return verdict.accepted, emitted
