"""Who takes part in a pass and with how many rows: one row for every decoding sequence, prompts in the room left."""

from __future__ import annotations

from dataclasses import dataclass

from geminate.engine.sequence import Sequence
from geminate.errors import ParameterError
from geminate.params import MAX_DRAFT
from geminate.plan.batch import Rows
from geminate.speculation.draft import Draft
from geminate.speculation.policy.base import NO_DRAFT, Decision

SCORED_ROWS = 16  # prompt tokens of one sequence in a pass if their logits are wanted: these take time and memory
PREFILL_SHARE = 32  # prompt tokens beside decoding: near the best rate of longer chunks, in a fraction of their time


@dataclass(kw_only=True, slots=True)
class Turn:
    """The rows one sequence puts into a pass: unprocessed tokens, then its draft.

    Attributes:
        decoding: whether the sequence may draft; False for parts of a prompt.
        wants_logits: whether the pass predicts a token: not for a prompt whose end is still to come.
        decision: the policy's, with the draft.
        accepted: draft tokens that equalled the target's draws, once verified.
        cut: whether verification ended early, because what a grammar allows was not known yet.
    """

    sequence: Sequence
    pending: list[int]
    decoding: bool
    wants_logits: bool
    decision: Decision = NO_DRAFT
    accepted: int = 0
    cut: bool = False

    @property
    def draft(self) -> Draft:
        """Draft tokens, possibly none."""
        return self.decision.draft

    @property
    def is_round(self) -> bool:
        """Whether the turn is one unprocessed token and its draft, as in every round after the prompt."""
        return self.wants_logits and len(self.pending) == 1

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.pending) + len(self.draft.token_ids)

    @property
    def wanted(self) -> int:
        """Rows whose logits are wanted, at the end of the turn's."""
        return self.scored + (len(self.draft.token_ids) + 1 if self.wants_logits else 0)

    @property
    def scored(self) -> int:
        """Rows whose logits give log-probabilities of the prompt; the first of those that are wanted."""
        return len(self.pending) - self.wants_logits if self.sequence.scores_prompt else 0

    def rows(self) -> Rows:
        """For the batch."""
        ids = [*self.pending, *self.draft.token_ids]
        return Rows(cache=self.sequence.cache, ids=ids, wanted=self.wanted)


class Scheduler:
    """Divides the rows of a pass.

    Args:
        max_rows: rows of a pass.
        prefill_chunk: maximum number of prompt tokens of one sequence in a pass.
        prefill_share: maximum number of prompt tokens of all sequences in a pass that also decodes; None: 32, or what
            fits.

    Raises:
        ParameterError: a chunk or share that does not fit a pass.
    """

    def __init__(self, *, max_rows: int, prefill_chunk: int, prefill_share: int | None) -> None:
        most = max_rows - MAX_DRAFT
        if not 1 <= prefill_chunk <= most:
            raise ParameterError(f"prefill_chunk must be 1 to {most}, not {prefill_chunk}")
        if prefill_share is None:
            prefill_share = min(PREFILL_SHARE, most)
        if not 1 <= prefill_share <= most:
            raise ParameterError(f"prefill_share must be 1 to {most}, not {prefill_share}")
        self.max_rows = max_rows
        self.prefill_chunk = prefill_chunk
        self.prefill_share = prefill_share
        self._next = 0  # index of the prompt that goes first

    def turns(self, running: list[Sequence]) -> tuple[list[Turn], int]:
        """Turns of the next pass, parts of prompts first, and the rows left for drafts."""
        ready = [s for s in running if s.ready]
        decoding = [s for s in ready if s.decoding]
        prompts = [s for s in ready if not s.decoding]
        turns: list[Turn] = []
        room = self.max_rows - len(decoding)
        share = min(room, self.prefill_share if decoding else room)
        if prompts:
            # Prompts take turns while others decode, so that a short one passes a long one.
            self._next = (self._next + 1) % len(prompts) if decoding else 0
            for sequence in prompts[self._next :] + prompts[: self._next]:
                if share == 0:
                    break
                most = SCORED_ROWS if sequence.scores_prompt else self.prefill_chunk
                part = sequence.pending[: min(share, self.prefill_chunk, most)]
                last = len(part) == len(sequence.token_ids) - sequence.cache.length
                turns.append(Turn(sequence=sequence, pending=part, decoding=False, wants_logits=last))
                share -= len(part)
                room -= len(part)
        for sequence in decoding:
            last_token = [sequence.token_ids[-1]]
            turns.append(Turn(sequence=sequence, pending=last_token, decoding=True, wants_logits=True))
        return turns, room
