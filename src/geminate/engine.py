"""The one loop: every token of every sequence, drafted or not, comes out of `Engine.step`.

A pass takes rows of all running sequences: a chunk of a prompt, or the last token and its drafts.
Plain decoding is an empty draft. By the numeric contract a row's logits do not depend on the
rows beside it, so neither chunking, company nor speculation can change what is emitted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geminate.cache import KVCache
from geminate.constraint import Constraint
from geminate.errors import ContextLengthError, ParameterError
from geminate.models.gemma4 import TargetModel
from geminate.params import MAX_DRAFT, ResolvedSampling
from geminate.sampling import distribution, draft_rule, draw, token_logprobs
from geminate.sequence import Sequence
from geminate.spec.acceptance import Beliefs
from geminate.spec.costs import CostModel
from geminate.spec.draft import Draft, DraftContext, Drafter
from geminate.spec.policy import AutoPolicy, FixedPolicy, NgramPolicy, Policy
from geminate.spec.verify import Verdict, verify
from geminate.types import F32


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


class Engine:
    """Runs sequences to their end.

    Args:
        target: the compiled target.
        drafter: what guesses, or None: then only copied text is drafted.
        prefill_chunk: most prompt tokens of one sequence in one pass.
        costs: what passes and draft steps cost here; without, it is learned on the way.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter | None,
        *,
        prefill_chunk: int = 256,
        costs: CostModel | None = None,
    ) -> None:
        most = target.max_rows - MAX_DRAFT
        if not 1 <= prefill_chunk <= most:
            raise ParameterError(f"prefill_chunk must be 1 to {most}, not {prefill_chunk}")
        self.target = target
        self.drafter = drafter
        self.prefill_chunk = prefill_chunk
        self.costs = costs or CostModel()
        self.beliefs = Beliefs()
        self.running: list[Sequence] = []
        self._drafted = False  # whether the last lone round did

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
            cache: a cache that already holds a strict prefix of ``prompt`` (an earlier turn).
            on_token: told every emitted token in order; returning True ends the generation after it.
            on_logits: told (position, raw logits float32 [vocab]) of every emitted token.
            constraint: a grammar's fresh state; the answer keeps to it.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            ParameterError: empty prompt, ids outside the vocabulary, drafts asked of an engine without drafter.
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
        sequence = Sequence(
            prompt,
            sampling,
            cache=cache if cache is not None else self.target.new_cache(),
            policy=self._policy(speculation),
            eos_ids=frozenset(self.target.config.eos_token_ids),
            choice=choice,
            on_token=on_token,
            on_logits=on_logits,
            constraint=constraint,
        )
        self.running.append(sequence)
        return sequence

    def _policy(self, speculation: Literal["auto", "ngram"] | int) -> Policy:
        if speculation == "auto":
            return AutoPolicy(self.drafter, self.costs, self.beliefs)
        return NgramPolicy() if speculation == "ngram" else FixedPolicy(self.drafter, speculation)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence now; what it has emitted stays valid."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "abort"
        if sequence in self.running:
            self.running.remove(sequence)

    def step(self) -> list[tuple[Sequence, list[int]]]:
        """One pass over the rows of every running sequence that fit.

        Returns:
            (sequence, tokens it emitted in this pass) for every sequence that emitted any.
        """
        began = time.perf_counter()
        budget = self.target.max_rows
        batch: list[_Rows] = []
        for sequence in self.running:
            rows = self._rows(sequence, budget)
            if rows is None:
                break
            batch.append(rows)
            budget -= len(rows.ids)
        if not batch:
            return []
        drafted = time.perf_counter()
        hidden, logits = self._forward(batch)
        passed = time.perf_counter()
        # Only a lone round's times belong to one draft length.
        lone = len(batch) == 1 and batch[0].wants_logits and len(batch[0].pending) == 1
        emitted: list[tuple[Sequence, list[int]]] = []
        row = head = 0
        for rows in batch:
            count = len(rows.ids)
            heads = len(rows.draft.token_ids) + 1 if rows.wants_logits else 0
            accepted, tokens = self._commit(rows, hidden[row : row + count], logits[head : head + heads])
            row, head = row + count, head + heads
            if tokens:
                emitted.append((rows.sequence, tokens))
                rows.sequence.policy.observe(rows.draft, accepted, time.perf_counter() - began if lone else None)
        took = time.perf_counter() - began
        if lone:
            draft = batch[0].draft
            self.costs.observe_pass(len(draft.token_ids) + 1, passed - drafted)
            # The first draft after a pause finds its weights far from the core: no measure for a series of them.
            if draft.steps and self._drafted:
                self.costs.observe_draft(draft.steps, drafted - began)
            self._drafted = draft.steps > 0
            aside = passed - began if draft.steps else passed - drafted
            self.costs.observe_overhead(took - aside, len(emitted[0][1]))
        for rows in batch:
            rows.sequence.stats.count_time(took)
        # The first running sequence that found no room this time goes first next time.
        self.running = self.running[len(batch) :] + self.running[: len(batch)]
        self.running = [s for s in self.running if s.finish_reason is None]
        return emitted

    def run(self) -> None:
        """Step until nothing runs."""
        while self.running:
            self.step()

    def _rows(self, sequence: Sequence, budget: int) -> _Rows | None:
        pending = sequence.pending
        if len(pending) > self.prefill_chunk:
            if budget < self.prefill_chunk:
                return None
            chunk = pending[: self.prefill_chunk]
            return _Rows(sequence=sequence, pending=chunk, draft=Draft(), wants_logits=False)
        if budget < len(pending):
            return None
        limit = min(budget - len(pending), sequence.room - 1, MAX_DRAFT)
        draft = self._draft(sequence, limit) if len(pending) == 1 else Draft()
        return _Rows(sequence=sequence, pending=pending, draft=draft, wants_logits=True)

    def _draft(self, sequence: Sequence, limit: int) -> Draft:
        if sequence.hidden is None:
            return Draft()
        context = DraftContext(
            token_ids=sequence.token_ids,
            hidden=sequence.hidden,
            cache=sequence.cache,
            rule=draft_rule(sequence.sampling, sequence.choice),
            constraint=sequence.constraint,
        )
        company = sum(other is not sequence and other.hidden is not None for other in self.running)
        return sequence.policy.draft(context, limit, company)

    def _forward(self, batch: list[_Rows]) -> tuple[F32, F32]:
        ids: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[int] = []
        for index, rows in enumerate(batch):
            cache = rows.sequence.cache
            count = len(rows.ids)
            cache.reserve(count)
            if rows.wants_logits:
                first = len(ids) + len(rows.pending) - 1
                wanted.extend(range(first, len(ids) + count))
            ids.extend(rows.ids)
            positions.extend(range(cache.length, cache.length + count))
            sequences.extend([index] * count)
        out = self.target.forward(
            np.array(ids, dtype=np.int32),
            np.array(positions, dtype=np.int32),
            np.array(sequences, dtype=np.int32),
            [rows.sequence.cache for rows in batch],
            np.array(wanted, dtype=np.int32),
        )
        for rows in batch:
            rows.sequence.cache.advance(len(rows.ids))
        return out

    def _verify(self, drafts: tuple[int, ...], draw_row: Callable[[int], int]) -> Verdict:
        return verify(drafts, draw_row)

    def _commit(self, rows: _Rows, hidden: F32, logits: F32) -> tuple[int, list[int]]:
        """Verify, emit, roll the cache back to what stays. hidden [rows, width], logits [k + 1, vocab].

        Returns:
            how many drafts were accepted, and the tokens emitted.
        """
        sequence = rows.sequence
        if not rows.wants_logits:
            sequence.hidden = hidden[-1]
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
