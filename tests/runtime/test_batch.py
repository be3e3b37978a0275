"""A pass as one value: what `Batch.of` makes of several sequences, and rows that bring their own embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geminate import LLM
from geminate.plan.batch import Batch, Rows


def test_of_several_sequences(models: dict[str, Path]) -> None:
    target = LLM(models["E2B"], drafter=None).pair.target
    first, second = target.new_cache(), target.new_cache()
    target.extend([Rows(cache=first, ids=[3, 4, 5])])
    batch = Batch.of(
        [Rows(cache=first, ids=[6, 7], wanted=1), Rows(cache=second, ids=np.array([8, 9, 10], np.int32), wanted=2)]
    )
    assert batch.ids.tolist() == [6, 7, 8, 9, 10] and batch.positions.tolist() == [3, 4, 0, 1, 2]
    assert batch.sequences.tolist() == [0, 0, 1, 1, 1] and batch.wanted.tolist() == [1, 3, 4]
    assert batch.counts == [2, 3] and batch.embeddings is None
    assert first.length == 3 and second.length == 0  # nothing changed


@pytest.mark.parametrize("size", ["E2B", "12B"])
def test_given_embeddings_stand_for_the_table(
    size: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaled embeddings of a text, given as rows, are the text; other rows are not."""
    monkeypatch.setenv("GEMINATE_ISA", "reference")
    target = LLM(models[size], drafter=None, weights="bf16").pair.target
    ids = [3, 44, 105, 7]
    taps: dict[str, np.ndarray] = {}
    hidden, logits = target.extend([Rows(cache=target.new_cache(), ids=ids, wanted=4)], taps)
    rows = target.store.embedding().dequantized_rows(np.array(ids, np.int32)) * np.float32(target.config.embed_scale)
    given = Rows(cache=target.new_cache(), ids=ids, wanted=4, embeddings=rows)
    same = target.extend([given])
    assert np.array_equal(hidden, same[0]) and np.array_equal(logits, same[1])
    other = target.extend([Rows(cache=target.new_cache(), ids=ids, wanted=4, embeddings=rows[::-1])])
    assert not np.array_equal(logits, other[1])
