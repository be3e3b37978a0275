"""Token counts past the size of their first arrays."""

from __future__ import annotations

import numpy as np

from geminate.decoding.sampling import TokenCounts
from geminate.params import SamplingParams


def test_growth_keeps_every_count() -> None:
    sampling = SamplingParams(frequency_penalty=1.0).resolved({})
    counts = TokenCounts([1, 2], sampling)
    emitted = [t for t in range(300) for _ in range(1 + t % 3)]
    for token in emitted:
        counts.append(token)
    ids, output = counts.arrays()
    assert dict(zip(ids.tolist(), output.tolist(), strict=True)) == {t: emitted.count(t) for t in range(300)}
    more, after = counts.extended([400, 5]).arrays()
    assert after[more.tolist().index(400)] == 1
    assert after[more.tolist().index(5)] == emitted.count(5) + 1
    assert np.array_equal(counts.arrays()[1], output)
