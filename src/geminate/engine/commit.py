"""The end of a round: the target's draws decide what is emitted, and the cache is rolled back to that."""

from __future__ import annotations

from collections.abc import Callable

from geminate.arrays import F32
from geminate.decoding.constraint import MaskPendingError
from geminate.decoding.sampler import RowsToDraw, Sampler
from geminate.engine.messages import EngineEvent
from geminate.engine.scheduler import Turn
from geminate.engine.sequence import Sequence
from geminate.speculation.verify import Verdict

Verifier = Callable[[tuple[int, ...], Callable[[int], int]], Verdict]


def draw_ahead(turns: list[Turn], logits: F32, sampler: Sampler) -> list[list[int]]:
    """For each turn the target's draws at its rows, as far as they are known without a grammar's mask.

    Args:
        logits: float32 [wanted rows of all turns, vocab].
    """
    parts: list[RowsToDraw] = []
    slots: list[int] = []
    drawn: list[list[int]] = [[] for _ in turns]
    row = 0
    for index, turn in enumerate(turns):
        sequence = turn.sequence
        if turn.wants_logits and sequence.constraint is None:
            parts.append(
                RowsToDraw(
                    sampler=sequence.sampler,
                    first=row + turn.scored,
                    position=len(sequence.token_ids),
                    drafts=turn.draft.token_ids,
                )
            )
            slots.append(index)
        row += turn.wanted
    if parts:
        for index, tokens in zip(slots, sampler.draw_ahead(logits, parts), strict=True):
            drawn[index] = tokens
    return drawn


def commit(
    turn: Turn, hidden: F32, logits: F32, ahead: list[int], verify: Verifier, sampler: Sampler
) -> EngineEvent | None:
    """Verify a turn's draft, emit, and roll the cache back to what stays.

    Args:
        hidden, logits: float32 [s + k + 1, width and vocab], of s prompt rows that are scored, then of the last token
            and k drafts; the latter only if the turn wants them.
        ahead: the turn's draws as far as they are known; see `draw_ahead`.
        verify: how drafts and draws are compared; `geminate.speculation.verify.verify`.

    Returns:
        what was emitted; None for a part of a prompt, or if nothing could be drawn because a mask is still computed.
    """
    sequence = turn.sequence
    if turn.scored:
        _score_prompt(turn, logits[: turn.scored], sampler)
        hidden, logits = hidden[turn.scored :], logits[turn.scored :]
    if not turn.wants_logits:
        return None
    drafted = turn.draft.token_ids
    start = len(sequence.token_ids)
    drawn: list[int] = []
    try:
        verdict = verify(drafted, _draws(sequence, drafted, logits, ahead, drawn))
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
    stats.count_round(len(drafted), accepted, copied=source == "ngram", reason=turn.decision.reason)
    stats.generated_tokens += count
    top = sequence.sampling.logprobs
    prompt_logprobs, sequence.prompt_logprobs = tuple(sequence.prompt_logprobs), []
    return EngineEvent(
        request_id=sequence.request.request_id,
        choice=sequence.choice,
        position=start,
        token_ids=tuple(emitted),
        drafted=len(drafted),
        accepted=accepted,
        source=source,
        reason=turn.decision.reason,
        logprobs=() if top is None else sampler.logprobs(logits[:count], emitted, top),
        logits=logits[:count] if sequence.request.want_logits else None,
        prompt_logprobs=prompt_logprobs,
        finish_reason=sequence.finish_reason,
        stop_token=sequence.stop_token,
        stats=None if sequence.finish_reason is None else stats,
    )


def _score_prompt(turn: Turn, logits: F32, sampler: Sampler) -> None:
    """Add what each row says of the prompt's next token."""
    sequence = turn.sequence
    top = sequence.request.prompt_logprobs
    assert top is not None
    first = sequence.cache.length - turn.count + 1
    known = len(sequence.prompt_logprobs)  # past the first row if the rows come again because a mask was late
    begin, end = max(first, known + 1), min(first + len(logits), sequence.prompt_length)
    if begin < end:
        tokens = sequence.token_ids[begin:end]
        sequence.prompt_logprobs += sampler.logprobs(logits[begin - first : end - first], tokens, top)


def _draws(
    sequence: Sequence, drafted: tuple[int, ...], logits: F32, ahead: list[int], drawn: list[int]
) -> Callable[[int], int]:
    """The target's draw at row i, after i accepted draft tokens; called in order. Draws are added to ``drawn``."""
    constraint, start = sequence.constraint, len(sequence.token_ids)

    def draw_row(row: int) -> int:
        token = ahead[row] if row < len(ahead) else -1
        if token < 0:
            allowed = None if constraint is None else constraint.allowed()
            token = sequence.sampler.draw(logits[row], start + row, drafted[:row], allowed)
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
        sequence.sampler.append(token)
        emitted.append(token)
        sequence.finish_reason = sequence.end_after(token)
        if sequence.finish_reason is not None:
            break
    return emitted
