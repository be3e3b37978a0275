"""How long a pass waits for what grammars allow: a share of its own time, so that no grammar slows the others down."""

from __future__ import annotations

from collections.abc import Iterable

from geminate.engine.scheduler import Turn
from geminate.engine.sequence import Sequence

SHARE = 0.25  # of a pass, for all its grammars together
LEAST_S, MOST_S = 0.001, 0.01
TICK_S = 0.005


def begin_round(turns: list[Turn], last_pass: float) -> None:
    """Give every grammar in a pass its share of the time that the pass may wait.

    Args:
        last_pass: seconds that the last forward pass took.
    """
    constraints = [turn.sequence.constraint for turn in turns if turn.sequence.constraint is not None]
    if constraints:
        alone = len(turns) == 1
        whole = MOST_S if alone else min(MOST_S, max(LEAST_S, SHARE * last_pass))
        for constraint in constraints:
            constraint.be_patient(whole / len(constraints))


def ask_ahead(turns: list[Turn]) -> None:
    """Have the masks along every draft computed while the pass runs."""
    for turn in turns:
        if turn.wants_logits and turn.sequence.constraint is not None:
            turn.sequence.constraint.prepare(turn.draft.token_ids)


def wait_for_one(running: Iterable[Sequence]) -> None:
    """Nothing can run until what some grammar allows is known; new requests are taken in between."""
    for sequence in running:
        if sequence.constraint is not None and not sequence.mask_ready:
            sequence.constraint.wait(TICK_S)
            return
