"""The gate says better only where held-out prompts leave no doubt."""

from __future__ import annotations

import numpy as np

from geminate.tools.train.gate import Served, compare, is_better


def served(lengths: list[float], categories: str) -> list[Served]:
    return [Served(c, 20, round(20 * x)) for x, c in zip(lengths, categories, strict=True)]


def test_clear_gain_is_better_and_the_same_is_not() -> None:
    rng = np.random.default_rng(1)
    old = rng.uniform(1.5, 2.5, 40).tolist()
    names = "ab" * 20
    gain = compare(served(old, names), served([x + 0.4 for x in old], names))
    assert is_better(gain) and gain[0].category == "all" and [c.category for c in gain[1:]] == ["a", "b"]
    assert gain[0].low > 0.3 and abs(gain[0].new - gain[0].old - 0.4) < 0.03
    assert not is_better(compare(served(old, names), served(old, names)))


def test_noise_is_no_gain() -> None:
    rng = np.random.default_rng(2)
    old = rng.uniform(1.5, 2.5, 30)
    new = old + rng.normal(0.02, 0.5, 30).clip(-0.5, 2)
    found = compare(served(old.tolist(), "a" * 30), served(new.tolist(), "a" * 30))
    assert len(found) == 1, "one category is not listed twice"
    assert found[0].low < 0 < found[0].high and not is_better(found)


def test_a_category_that_loses_is_refused() -> None:
    names = "a" * 30 + "b" * 10
    old = [2.0] * 40
    new = [2.6] * 30 + [1.7] * 10
    found = compare(served(old, names), served(new, names))
    assert found[0].low > 0 and found[2].high < 0
    assert not is_better(found)
