"""Who takes part in a pass and with how many rows: one row for every decoding sequence, prompts in the room left.

Of prompts, the shortest goes first, counted in tokens that are left, and all grow older: what decides is the ratio of
waiting time (plus `GRACE_S`) to tokens left. A short prompt overtakes a long one at once; none waits for ever, because
its ratio grows while those that come later begin anew. (The rule is "highest response ratio next", Brinch Hansen 1971,
decided anew in every pass.) A first token does not wait for rows of other prompts in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geminate.engine.sequence import Sequence
from geminate.errors import ParameterError
from geminate.params import MAX_DRAFT
from geminate.plan.batch import Rows
from geminate.speculation.draft import Draft
from geminate.speculation.policy.base import NO_DRAFT, Decision

GRACE_S = 1.0  # waiting times that are short beside this do not count: of two prompts the shorter one goes first
ENOUGH_ROWS = 32  # of prompts; more hardly make a row cheaper, and those whose first token it is would wait for them
SCORED_ROWS = 16  # prompt tokens of one sequence in a pass if their logits are wanted: these take time and memory


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
        largest = self.sequence.only_largest and not self.scored
        return Rows(cache=self.sequence.cache, ids=ids, wanted=self.wanted, largest=largest)


class Scheduler:
    """Divides the rows of a pass.

    Args:
        max_rows: rows of a pass.
        prefill_chunk: maximum number of prompt tokens of one sequence in a pass.
        prefill_share: maximum number of prompt tokens of all sequences in a pass that also decodes; None: what
            ``beside`` allows.
        beside: prompt rows for a pass with so many decoding rows; see `geminate.engine.pace`.
        clock: seconds, the same as that of `Sequence.arrived`.

    Raises:
        ParameterError: a chunk or share that does not fit a pass.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        prefill_chunk: int,
        prefill_share: int | None,
        beside: Callable[[int], int],
        clock: Callable[[], float],
    ) -> None:
        most = max_rows - MAX_DRAFT
        if not 1 <= prefill_chunk <= most:
            raise ParameterError(f"prefill_chunk must be 1 to {most}, not {prefill_chunk}")
        if prefill_share is None:
            prefill_share = most
        if not 1 <= prefill_share <= most:
            raise ParameterError(f"prefill_share must be 1 to {most}, not {prefill_share}")
        self.max_rows = max_rows
        self.prefill_chunk = prefill_chunk
        self.prefill_share = prefill_share
        self._beside, self._clock = beside, clock

    def turns(self, running: list[Sequence]) -> tuple[list[Turn], int]:
        """Turns of the next pass, parts of prompts first, and the rows left for drafts."""
        ready = [s for s in running if s.ready]
        decoding = [s for s in ready if s.decoding]
        prompts = [s for s in ready if not s.decoding]
        turns: list[Turn] = []
        room = self.max_rows - len(decoding)
        share = self._share(decoding, room) if prompts else 0
        taken, ends = 0, False
        for sequence in self._in_order(prompts):
            if taken == share or (ends and taken >= ENOUGH_ROWS):
                break
            most = SCORED_ROWS if sequence.scores_prompt else self.prefill_chunk
            part = sequence.pending[: min(share - taken, self.prefill_chunk, most)]
            last = len(part) == len(sequence.token_ids) - sequence.cache.length
            turns.append(Turn(sequence=sequence, pending=part, decoding=False, wants_logits=last))
            taken += len(part)
            ends |= last
        room -= taken
        for sequence in decoding:
            last_token = [sequence.token_ids[-1]]
            turns.append(Turn(sequence=sequence, pending=last_token, decoding=True, wants_logits=True))
        return turns, room

    def _share(self, decoding: list[Sequence], room: int) -> int:
        """Prompt rows of all sequences together."""
        if not decoding:
            return room
        drafted = sum([sequence.policy.averages.mean_drafted for sequence in decoding])
        return min(room, self.prefill_share, self._beside(len(decoding) + round(drafted)))

    def _in_order(self, prompts: list[Sequence]) -> list[Sequence]:
        """Prompts in the order in which they are read; of equals the shorter one, then the one that began first."""
        if len(prompts) < 2:
            return prompts
        now = self._clock()

        def place(sequence: Sequence) -> tuple[float, int]:
            left = len(sequence.token_ids) - sequence.cache.length
            return (sequence.arrived - now - GRACE_S) / left, left

        return sorted(prompts, key=place)
