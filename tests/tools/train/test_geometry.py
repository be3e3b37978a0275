"""The training geometry is the served one: logits as the engine's drafter, no token of the future in a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geminate import LLM
from geminate.plan.batch import Rows
from geminate.runtime.drafter import RopePosition
from geminate.tools.train.checkpoint import load_drafter
from geminate.tools.train.drafter import Drafter
from geminate.tools.train.rounds import shifted
from geminate.tools.train.teacher import Batch, Teacher, collate

STEPS = 3


def unrolled(drafter: Drafter, batch: Batch) -> list[torch.Tensor]:
    """Normed states [T, hidden] of every step, all rows at once."""
    geometry = drafter.geometry(batch.ids.shape[1])
    hidden, out = batch.hidden, []
    with torch.no_grad():
        for j in range(STEPS):
            normed, hidden = drafter.step(shifted(batch.embedded, j + 1), hidden, batch.kv, geometry)
            out.append(normed[0])
    return out


@pytest.mark.parametrize("size", ["E2B", "31B"])
@pytest.mark.parametrize("rope_position", ["P", "P-1"])
@pytest.mark.parametrize("at", [5, 23, 24, 60], ids=lambda at: f"row{at}")  # windows are 24 positions wide
def test_as_served(size: str, rope_position: RopePosition, at: int, models: dict[str, Path]) -> None:
    llm = LLM(models[size], weights="bf16", rope_position=rope_position)
    target, served = llm.pair.target, llm.pair.drafter
    assert served is not None
    drafter, _ = load_drafter(models[size].with_name(f"{size}-assistant"), llm.config, rope_position)
    ids = np.random.default_rng(3).integers(3, target.config.vocab_size, 70).tolist()
    states = unrolled(drafter, collate([Teacher(target).targets(ids, 10)], torch.device("cpu")))
    cache = target.new_cache()
    hidden, _ = target.extend([Rows(cache=cache, ids=ids[: at + 1], wanted=1)])
    state = hidden[-1]
    for j in range(STEPS):
        candidates, logits, state = served.step(ids[at + 1 + j], state, cache)
        ours = (drafter.table[torch.from_numpy(candidates).long()] @ states[j][at]).numpy()
        assert np.abs(ours - logits).max() <= 2e-3 * np.abs(logits).max(), f"step {j}"


def test_no_token_of_the_future_is_seen(models: dict[str, Path]) -> None:
    """Changing a token changes no guess made before that token was fed; changing one that was fed does."""
    llm = LLM(models["E2B"], weights="int8")
    drafter, _ = load_drafter(models["E2B"].with_name("E2B-assistant"), llm.config, "P")
    ids = np.random.default_rng(4).integers(3, llm.config.vocab_size, 40).tolist()
    teacher = Teacher(llm.pair.target)
    before = unrolled(drafter, collate([teacher.targets(ids, 4)], torch.device("cpu")))
    changed = 25
    other = [*ids]
    other[changed] = ids[changed] + 1 if ids[changed] + 1 < llm.config.vocab_size else 3
    after = unrolled(drafter, collate([teacher.targets(other, 4)], torch.device("cpu")))
    for j in range(STEPS):
        # Step j of row t has been fed the tokens up to t + 1 + j.
        unseen = changed - 1 - j
        assert torch.equal(before[j][:unseen], after[j][:unseen]), f"step {j} sees what it is to draft"
        assert not torch.allclose(before[j][unseen], after[j][unseen]), "the token that was fed must matter"


def test_keys_of_the_bonus_token_are_not_seen(models: dict[str, Path]) -> None:
    llm = LLM(models["E2B"], weights="int8")
    drafter, _ = load_drafter(models["E2B"].with_name("E2B-assistant"), llm.config, "P")
    ids = np.random.default_rng(5).integers(3, llm.config.vocab_size, 30).tolist()
    batch = collate([Teacher(llm.pair.target).targets(ids, 4)], torch.device("cpu"))
    before = unrolled(drafter, batch)
    row = 12
    for kind in batch.kv:
        for part in batch.kv[kind]:
            part[:, :, row] += 1.0
    after = unrolled(drafter, batch)
    for j in range(STEPS):
        assert torch.equal(before[j][:row], after[j][:row])
        assert not torch.allclose(before[j][row], after[j][row]), "row t itself is seen by round t"
