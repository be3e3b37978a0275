"""The law of `draw` is the truncated softmax: by enumeration of the noise, and by G-tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from geminate.decoding import sampling as module
from geminate.decoding.sampling import Distribution, TokenCounts, distribution, draw
from geminate.params import SamplingParams
from support import textbook
from support.gtest import Family, chi2_tail, g_test

FAMILY = Family(alpha=1e-6, planned=8)
DRAWS = 20_000
LOGITS = np.array([1.0, 0.2, -0.5, 2.1, 0.2, -3.0, 1.4, 0.9, 0.0, -1.0], dtype=np.float32)
SETTINGS = {
    "plain": SamplingParams(temperature=1.0),
    "cold": SamplingParams(temperature=0.6),
    "hot": SamplingParams(temperature=3.0),
    "top_k": SamplingParams(temperature=1.0, top_k=4),
    "top_p": SamplingParams(temperature=1.0, top_p=0.8),
    "min_p": SamplingParams(temperature=1.0, min_p=0.1),
    "all": SamplingParams(temperature=1.5, top_k=8, top_p=0.9, min_p=0.05, logit_bias={0: 1.5}),
}


@pytest.mark.parametrize("logp", [[0.5, 0.5], [0.9, 0.1], [0.03, 0.97], [0.2, 0.3, 0.5], [0.7, 0.25, 0.05]])
def test_draw_has_the_law_exactly(logp: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on a grid of equally likely values: shares differ from the law by the grid's cells alone.

    The tokens' regions in the unit cube are bounded by monotone surfaces, and each meets at most
    n * m^(n-1) of the m^n cells.
    """
    n = len(logp)
    m = 200 if n == 2 else 36
    law = Distribution(ids=np.arange(n, dtype=np.int64), scaled=np.log(np.array(logp)))
    cells = (np.arange(m) + 0.5) / m
    noise = -np.log(-np.log(cells))
    shares = np.zeros(n)
    for corner in itertools.product(noise, repeat=n):
        monkeypatch.setattr(module, "gumbel", lambda *_, corner=corner: np.array(corner))
        shares[draw(law, 0, 0, 0)] += 1
    assert np.abs(shares / m**n - logp).max() <= n / m


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_over_positions_follow_the_law(name: str) -> None:
    s = SETTINGS[name].resolved({"do_sample": True})
    exact = textbook.law(LOGITS.tolist(), s, (), ())
    law = distribution(LOGITS, s, TokenCounts((), s))
    counts = np.bincount([draw(law, 2024, 0, t) for t in range(DRAWS)], minlength=len(LOGITS))
    assert FAMILY.accepts(name, counts.tolist(), [exact.get(i, 0.0) for i in range(len(LOGITS))])


def test_draws_over_seeds_follow_the_law() -> None:
    s = SETTINGS["plain"].resolved({"do_sample": True})
    exact = textbook.law(LOGITS.tolist(), s, (), ())
    law = distribution(LOGITS, s, TokenCounts((), s))
    counts = np.bincount([draw(law, seed, 1, 9) for seed in range(DRAWS)], minlength=len(LOGITS))
    assert FAMILY.accepts("over seeds", counts.tolist(), [exact[i] for i in range(len(LOGITS))])


def test_chi2_tail_matches_tables() -> None:
    assert chi2_tail(3.841458820694124, 1) == pytest.approx(0.05, rel=1e-9)
    assert chi2_tail(18.307038053275146, 10) == pytest.approx(0.05, rel=1e-9)
    assert chi2_tail(124.34211340400407, 101) == pytest.approx(0.057440008619641506, rel=1e-9)
    assert chi2_tail(0.0, 4) == 1.0


def test_g_test_sees_a_biased_die_and_passes_a_fair_one() -> None:
    fair = [1 / 6] * 6
    assert g_test([1000, 1010, 990, 1003, 1001, 996], fair) > 0.5
    assert g_test([1200, 960, 960, 960, 960, 960], fair) < 1e-6
    assert g_test([10, 1], [1.0, 0.0]) == 0.0


def test_g_test_p_values_are_uniform() -> None:
    """The test of the test: on a true law, 5 % of the p-values lie below 0.05."""
    generator = np.random.default_rng(3)
    law = np.array([0.4, 0.3, 0.15, 0.1, 0.049, 0.001])
    small = sum(g_test(generator.multinomial(4000, law).tolist(), law.tolist()) < 0.05 for _ in range(2000))
    assert 60 <= small <= 145
