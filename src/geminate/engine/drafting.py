"""Asks every decoding sequence's policy for a draft, in the rows that a pass has left."""

from __future__ import annotations

from geminate.engine.scheduler import Turn
from geminate.engine.sequence import Sequence
from geminate.params import MAX_DRAFT
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.policy import ALONE, Company


def draft_all(turns: list[Turn], room: int) -> None:
    """Fill in the drafts of the decoding turns, ``room`` draft tokens at most."""
    decoding = [turn for turn in turns if turn.decoding]
    prompt_rows = sum(len(turn.pending) for turn in turns if not turn.decoding)
    others = len(decoding) - 1
    usual = sum(turn.sequence.policy.usual for turn in decoding)
    won = sum(turn.sequence.policy.won for turn in decoding)
    for turn in decoding:
        own = turn.sequence.policy
        company = ALONE
        if others or prompt_rows:
            company = Company(
                sequences=others,
                rows=others + round(usual - own.usual),
                tokens=others + won - own.won,
                prompt_rows=prompt_rows,
            )
        limit = min(room, turn.sequence.room - 1, MAX_DRAFT)
        turn.draft = _draft(turn.sequence, limit, company)
        room -= len(turn.draft.token_ids)


def _draft(sequence: Sequence, limit: int, company: Company) -> Draft:
    assert sequence.hidden is not None
    context = DraftContext(
        token_ids=sequence.token_ids,
        hidden=sequence.hidden,
        cache=sequence.cache,
        rule=sequence.rule,
        constraint=sequence.constraint,
    )
    return sequence.policy.draft(context, limit, company)
