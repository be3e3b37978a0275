"""G-tests with a counted alpha: one family-wise error rate, divided over the tests that were declared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Cells expected to hold less are pooled, so that chi-square is a fair approximation.
LEAST_EXPECTED = 5.0


def chi2_tail(x: float, df: int) -> float:
    """P(chi-square with ``df`` degrees of freedom > x): recurrence of the incomplete gamma function.

    Q(a + 1, y) = Q(a, y) + y^a e^-y / gamma(a + 1), from Q(1, y) = e^-y or Q(1/2, y) = erfc(sqrt y);
    Abramowitz and Stegun 6.5.21.
    """
    y = x / 2
    a = 1.0 if df % 2 == 0 else 0.5
    q = math.exp(-y) if df % 2 == 0 else math.erfc(math.sqrt(y))
    while a < df / 2 and y > 0:
        q += math.exp(a * math.log(y) - y - math.lgamma(a + 1))
        a += 1
    return min(q, 1.0) if y > 0 else 1.0


def g_test(counts: Sequence[int], law: Sequence[float]) -> float:
    """p-value that counts [n] come from the law [n] (sums to 1); 0 if something impossible was counted."""
    observed = np.asarray(counts, dtype=np.float64)
    expected = np.asarray(law, dtype=np.float64) * observed.sum()
    if (observed[expected == 0] > 0).any():
        return 0.0
    observed, expected = observed[expected > 0], expected[expected > 0]
    order = np.argsort(expected)
    observed, expected = observed[order], expected[order]
    # Pool the rarest cells until the pool itself is large enough.
    pooled = int(np.searchsorted(expected, LEAST_EXPECTED))
    while 0 < pooled < len(expected) and expected[:pooled].sum() < LEAST_EXPECTED:
        pooled += 1
    if pooled > 1:
        observed = np.concatenate([[observed[:pooled].sum()], observed[pooled:]])
        expected = np.concatenate([[expected[:pooled].sum()], expected[pooled:]])
    if len(observed) < 2:
        return 1.0
    seen = observed > 0
    g = 2 * float((observed[seen] * np.log(observed[seen] / expected[seen])).sum())
    return chi2_tail(max(g, 0.0), len(observed) - 1)


class Family:
    """Tests that share one alpha. Each is named, counted, and judged at alpha / planned."""

    def __init__(self, alpha: float, planned: int) -> None:
        self.level = alpha / planned
        self.planned = planned
        self.names: set[str] = set()

    def accepts(self, name: str, counts: Sequence[int], law: Sequence[float]) -> bool:
        """Whether the counts are compatible with the law.

        Raises:
            AssertionError: more tests than planned, so that alpha would be spent twice.
        """
        self.names.add(name)
        assert len(self.names) <= self.planned, f"raise 'planned': {len(self.names)} tests ran"
        return g_test(counts, law) >= self.level
