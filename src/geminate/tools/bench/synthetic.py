"""Decoding at given acceptance rates: drafts, passes and bookkeeping are real, accept or reject is a seeded coin.

For models of random weights, whose drafter is never right: it measures the engine at published acceptance rates.
The text means nothing, and exactness does not apply: accepted draft tokens are emitted as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geminate.engine.engine import Engine
from geminate.errors import ParameterError
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


class Coin:
    """A verifier that tosses a seeded coin in place of the comparison.

    Args:
        survival: chance that the first i draft tokens are all accepted; positions past them never are.
    """

    def __init__(self, survival: list[float]) -> None:
        self.rates = conditional_rates(survival)
        self.reset()

    def reset(self) -> None:
        """Start the series of tosses again."""
        self._generator = np.random.default_rng(0)

    def __call__(self, draft: tuple[int, ...], draw_row: Callable[[int], int]) -> Verdict:
        """See `geminate.speculation.verify.verify`."""
        accepted, token = 0, draw_row(0)  # as many draws as the real verification
        for rate in self.rates[: len(draft)]:
            if self._generator.random() >= rate:
                break
            accepted += 1
            token = draw_row(accepted)
        return Verdict(tokens=(*draft[:accepted], token), accepted=accepted)


def synthetic_engine(engine: Engine, coin: Coin) -> Engine:
    """An engine like ``engine`` that verifies with a coin."""
    return Engine(
        engine.target,
        engine.drafter,
        prefill_chunk=engine.scheduler.prefill_chunk,
        memory=engine.memory,
        costs=engine.timing.costs,
        verifier=coin,
        copies=False,  # text without meaning has nothing to copy
    )
