"""Drafts under a grammar: forced text costs nothing, the drafter proposes only what is allowed, copies are cut.

The constraint is always handed back in the state it came in.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32, I32
from geminate.decoding.constraint import Constraint, MaskPendingError
from geminate.decoding.draft_rule import DRAFT_TOP_K, DraftRule, choose_draft_token, confidence_bin
from geminate.errors import GrammarError
from geminate.runtime.drafter import DrafterModel
from geminate.speculation.draft import Draft, DraftContext


def allowed_prefix(constraint: Constraint | None, tokens: Seq[int]) -> tuple[int, ...]:
    """``tokens`` up to the first that the grammar does not allow."""
    if constraint is None:
        return tuple(tokens)
    taken = 0
    try:
        for token in tokens:
            if not constraint.allowed()[token]:
                break
            constraint.advance(token)
            taken += 1
    except (GrammarError, MaskPendingError):
        pass  # too complex for a draft: verification meets and reports it if the reply gets there
    finally:
        constraint.rollback(taken)
    return tuple(tokens[:taken])


def constrained_draft(model: DrafterModel, context: DraftContext, k: int) -> Draft:
    """At most k draft tokens: the forced ones if there are any, else the drafter's, step by step under the mask.

    A draft token is chosen by `DraftRule` among the candidates that are allowed, and its confidence is
    its share of their softmax. The draft ends by ``context.stop``, or where no candidate is allowed.
    """
    constraint = context.constraint
    if constraint is None:
        raise ValueError("constrained_draft needs a constraint")
    forced = constraint.forced()[:k]
    if forced:
        return Draft(token_ids=forced, source="forced")
    ids: list[int] = []
    confidence: list[float] = []
    token, hidden, stop = context.token_ids[-1], context.hidden, context.stop
    survival, steps = np.float32(1.0), 0
    try:
        while len(ids) < k:
            allowed = constraint.allowed()
            candidates, logits, hidden = model.step(token, hidden, context.cache)
            steps += 1
            chosen = _draft_token(candidates, logits, allowed, context.rule, context.cache.length + steps)
            if chosen is None:
                break
            token, share = chosen
            constraint.advance(token)
            ids.append(token)
            confidence.append(share)
            if stop is not None and len(ids) < k:
                survival *= stop.calibration[confidence_bin(share)]
                if survival * stop.ahead[len(ids)] < stop.need[len(ids)]:
                    break
    except (GrammarError, MaskPendingError):
        pass  # as in allowed_prefix
    finally:
        constraint.rollback(len(ids))
    return Draft(token_ids=tuple(ids), confidence=tuple(confidence), steps=steps)


def _draft_token(
    candidates: I32, logits: F32, allowed: NDArray[np.bool_], rule: DraftRule, position: int
) -> tuple[int, float] | None:
    """The draft token for ``position`` and its share of the allowed candidates' softmax; None if none is allowed."""
    if np.count_nonzero(allowed) == 1:  # whether or not a centroid head thought of it
        return int(np.argmax(allowed)), 1.0
    open_to = np.flatnonzero(allowed[candidates])
    if len(open_to) == 0:
        return None
    ids, x = candidates[open_to], logits[open_to]
    at = _choose(ids, x, rule, position)
    weights = np.exp(x - x.max())
    return int(ids[at]), float(weights[at] / weights.sum())


def _choose(ids: I32, logits: F32, rule: DraftRule, position: int) -> int:
    most = rule.top_k or DRAFT_TOP_K
    if rule.temperature == 0 or len(ids) <= 4 * most:
        return choose_draft_token(ids, logits, rule, position)
    # Sorting a whole vocabulary costs more than the drafter's step.
    largest = np.sort(np.argpartition(-logits, most)[:most])
    return int(largest[choose_draft_token(ids[largest], logits[largest], rule, position)])
