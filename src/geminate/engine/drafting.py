"""Asks every decoding sequence's policy for a draft, in the rows that a pass has left."""

from __future__ import annotations

from geminate.engine.scheduler import Turn
from geminate.engine.sequence import Sequence
from geminate.params import MAX_DRAFT
from geminate.speculation.batch_load import NO_LOAD, BatchLoad
from geminate.speculation.draft import DraftContext
from geminate.speculation.policy import Decision


def draft_all(turns: list[Turn], room: int) -> None:
    """Fill in the drafts of the decoding turns, ``room`` draft tokens at most."""
    decoding = [turn for turn in turns if turn.decoding]
    prompt_rows = sum(len(turn.pending) for turn in turns if not turn.decoding)
    others = len(decoding) - 1
    drafted = sum(turn.sequence.policy.averages.mean_drafted for turn in decoding)
    accepted = sum(turn.sequence.policy.averages.mean_accepted for turn in decoding)
    for turn in decoding:
        own = turn.sequence.policy.averages
        load = NO_LOAD
        if others or prompt_rows:
            load = BatchLoad(
                sequences=others,
                rows=others + round(drafted - own.mean_drafted),
                tokens=others + accepted - own.mean_accepted,
                prompt_rows=prompt_rows,
            )
        limit = min(room, turn.sequence.room - 1, MAX_DRAFT)
        turn.decision = _decide(turn.sequence, limit, load)
        room -= len(turn.draft.token_ids)


def _decide(sequence: Sequence, limit: int, load: BatchLoad) -> Decision:
    assert sequence.hidden is not None
    context = DraftContext(
        token_ids=sequence.token_ids,
        hidden=sequence.hidden,
        cache=sequence.cache,
        rule=sequence.rule,
        constraint=sequence.constraint,
    )
    return sequence.policy.decide(context, limit, load)
