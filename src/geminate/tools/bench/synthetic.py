"""Decoding at given acceptance rates: drafts, passes and bookkeeping are real, accept or reject is a seeded coin.

For models of random weights, whose drafter is never right: it measures the engine at published acceptance rates.
The text means nothing, and exactness does not apply: accepted guesses are emitted as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from geminate.engine.engine import Engine
from geminate.errors import ParameterError
from geminate.speculation.policy import AutoPolicy, Policy
from geminate.speculation.verify import Verdict


def conditional_rates(survival: list[float]) -> list[float]:
    """Chance that position i is accepted given that i - 1 was: s_i / s_(i-1).

    Raises:
        ParameterError: not a falling list of probabilities.
    """
    if not survival or not all(0.0 <= s <= 1.0 for s in survival):
        raise ParameterError("synthetic acceptance takes survival probabilities between 0 and 1, e.g. 0.84,0.60,0.39")
    if any(after > before for before, after in zip([1.0, *survival], survival, strict=False)):
        raise ParameterError("survival probabilities cannot rise: s_i is the chance that the first i are all accepted")
    return [s / before if before else 0.0 for before, s in zip([1.0, *survival], survival, strict=False)]


class SyntheticEngine(Engine):
    """The engine with a coin in place of the comparison; positions past the given rates are never accepted."""

    def __init__(self, engine: Engine, survival: list[float]) -> None:
        super().__init__(engine.target, engine.drafter, prefill_chunk=engine.prefill_chunk, costs=engine.costs)
        self.rates = conditional_rates(survival)
        self.coin = np.random.default_rng(0)

    def _policy(self, speculation: Literal["auto", "ngram"] | int) -> Policy:
        if speculation == "auto":  # text without meaning has nothing to copy
            return AutoPolicy(self.drafter, self.costs, self.beliefs, ngram=False)
        return super()._policy(speculation)

    def _verify(self, drafts: tuple[int, ...], draw_row: Callable[[int], int]) -> Verdict:
        accepted, token = 0, draw_row(0)  # as many draws as the real verification
        for rate in self.rates[: len(drafts)]:
            if self.coin.random() >= rate:
                break
            accepted += 1
            token = draw_row(accepted)
        return Verdict(tokens=(*drafts[:accepted], token), accepted=accepted)
