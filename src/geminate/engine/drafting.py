"""Asks every decoding sequence's policy for a draft, in the rows that a pass has left."""

from __future__ import annotations

import logging

from geminate.engine.scheduler import Turn
from geminate.engine.sequence import Sequence
from geminate.params import MAX_DRAFT
from geminate.speculation.batch_load import NO_LOAD, BatchLoad
from geminate.speculation.draft import DraftContext
from geminate.speculation.policy import UNDRAFTED, Decision, FixedPolicy

log = logging.getLogger("geminate")


def draft_all(turns: list[Turn], room: int) -> None:
    """Fill in the drafts of the decoding turns, ``room`` draft tokens at most."""
    decoding = [turn for turn in turns if turn.decoding]
    if len(turns) == 1:
        loads = [NO_LOAD]
    else:
        loads = _loads([turn.sequence for turn in decoding], sum(len(t.pending) for t in turns if not t.decoding))
    for turn, load in zip(decoding, loads, strict=False):
        left = turn.sequence.room - 1
        if left < 1:
            turn.decision = UNDRAFTED["last_token"]
        elif room < 1:
            turn.decision = UNDRAFTED["batch_load"]
        else:
            turn.decision = _decide(turn.sequence, min(room, left, MAX_DRAFT), load)
            room -= len(turn.draft.token_ids)


def _loads(decoding: list[Sequence], prompt_rows: int) -> list[BatchLoad]:
    """What each decoding sequence shares the pass with."""
    others = len(decoding) - 1
    if not (others or prompt_rows):
        return [NO_LOAD]
    averages = [sequence.policy.averages for sequence in decoding]
    drafted = sum(own.mean_drafted for own in averages)
    accepted = sum(own.mean_accepted for own in averages)
    return [
        BatchLoad(
            sequences=others,
            rows=others + round(drafted - own.mean_drafted),
            tokens=others + accepted - own.mean_accepted,
            prompt_rows=prompt_rows,
        )
        for own in averages
    ]


def _decide(sequence: Sequence, limit: int, load: BatchLoad) -> Decision:
    assert sequence.hidden is not None
    context = DraftContext(
        token_ids=sequence.token_ids,
        hidden=sequence.hidden,
        cache=sequence.cache,
        rule=sequence.rule,
        constraint=sequence.constraint,
    )
    try:
        return sequence.policy.decide(context, limit, load)
    except Exception as error:
        _stop_drafting(sequence, error)
        return UNDRAFTED["failed"]


def observe(turn: Turn) -> None:
    """Tell the policy what became of its draft."""
    sequence = turn.sequence
    try:
        sequence.policy.observe(turn.decision, turn.accepted)
    except Exception as error:
        _stop_drafting(sequence, error)


def _stop_drafting(sequence: Sequence, error: Exception) -> None:
    """Decode plainly from now on: an empty draft is always legal, so a broken drafter costs speed alone."""
    log.error("drafting failed for request %s; it goes on without", sequence.request.request_id, exc_info=error)
    sequence.policy = FixedPolicy(None, 0, reason="failed")
