"""The end of a round: the target's draws decide what is emitted, and the cache is rolled back to that."""

from __future__ import annotations

from collections.abc import Callable

from geminate.arrays import F32
from geminate.decoding.constraint import MaskPendingError
from geminate.decoding.sampling import distribution, draw, token_logprobs
from geminate.engine.messages import EngineEvent
from geminate.engine.scheduler import Turn
from geminate.engine.sequence import Sequence
from geminate.speculation.verify import Verdict

Verifier = Callable[[tuple[int, ...], Callable[[int], int]], Verdict]


def commit(turn: Turn, hidden: F32, logits: F32, verify: Verifier) -> EngineEvent | None:
    """Verify a turn's draft, emit, and roll the cache back to what stays.

    Args:
        hidden, logits: float32 [s + k + 1, width and vocab], of s prompt rows that are scored, then of the last token
            and k drafts; the latter only if the turn wants them.
        verify: how drafts and draws are compared; `geminate.speculation.verify.verify`.

    Returns:
        what was emitted; None for a part of a prompt, or if nothing could be drawn because a mask is still computed.
    """
    sequence = turn.sequence
    if turn.scored:
        _score_prompt(turn, logits[: turn.scored])
        hidden, logits = hidden[turn.scored :], logits[turn.scored :]
    if not turn.wants_logits:
        return None
    drafted = turn.draft.token_ids
    start = len(sequence.token_ids)
    drawn: list[int] = []
    try:
        verdict = verify(drafted, _draws(sequence, drafted, logits, start, drawn))
    except MaskPendingError:  # what was drawn is valid; the row without a mask comes again in a later pass
        verdict, turn.cut = Verdict(tokens=tuple(drawn), accepted=len(drawn)), True
    emitted = _emit(sequence, verdict.tokens)
    count = len(emitted)
    sequence.cache.truncate(start + count - 1)
    if count == 0:
        return None
    sequence.hidden = hidden[count - 1].copy()  # of the row that predicted the last token: the drafter's next input
    if sequence.constraint is not None and sequence.finish_reason is None:
        sequence.constraint.prepare()
    turn.accepted = verdict.accepted
    accepted = min(verdict.accepted, count)
    stats, source = sequence.stats, turn.draft.source
    stats.count_round(len(drafted), accepted, copied=source == "ngram")
    stats.generated_tokens += count
    wanted = sequence.sampling.logprobs
    prompt_logprobs, sequence.prompt_logprobs = tuple(sequence.prompt_logprobs), []
    return EngineEvent(
        request_id=sequence.request.request_id,
        choice=sequence.choice,
        position=start,
        token_ids=tuple(emitted),
        drafted=len(drafted),
        accepted=accepted,
        source=source,
        logprobs=() if wanted is None else tuple(token_logprobs(logits[i], t, wanted) for i, t in enumerate(emitted)),
        logits=logits[:count] if sequence.request.want_logits else None,
        prompt_logprobs=prompt_logprobs,
        finish_reason=sequence.finish_reason,
        stop_token=sequence.stop_token,
        stats=None if sequence.finish_reason is None else stats,
    )


def _score_prompt(turn: Turn, logits: F32) -> None:
    """Add what each row says of the prompt's next token."""
    sequence = turn.sequence
    top = sequence.request.prompt_logprobs
    assert top is not None
    first = sequence.cache.length - turn.count + 1
    for row, position in enumerate(range(first, min(first + len(logits), sequence.prompt_length))):
        if position <= len(sequence.prompt_logprobs):  # the rows come again because a mask was late
            continue
        sequence.prompt_logprobs.append(token_logprobs(logits[row], sequence.token_ids[position], top))


def _draws(
    sequence: Sequence, drafted: tuple[int, ...], logits: F32, start: int, drawn: list[int]
) -> Callable[[int], int]:
    """The target's draw at row i, after i accepted draft tokens; called in order. Draws are added to ``drawn``."""
    sampling, constraint = sequence.sampling, sequence.constraint

    def draw_row(row: int) -> int:
        counts = sequence.counts.extended(drafted[:row])
        allowed = None if constraint is None else constraint.allowed()
        token = draw(distribution(logits[row], sampling, counts, allowed), sampling.seed, sequence.choice, start + row)
        if constraint is not None:
            constraint.advance(token)  # rows are drawn in order, and only after drafts that were right
        drawn.append(token)
        return token

    return draw_row


def _emit(sequence: Sequence, tokens: tuple[int, ...]) -> list[int]:
    """Append tokens up to the one that ends the completion."""
    emitted: list[int] = []
    for token in tokens:
        sequence.token_ids.append(token)
        sequence.counts.append(token)
        emitted.append(token)
        sequence.finish_reason = sequence.end_after(token)
        if sequence.finish_reason is not None:
            break
    return emitted
