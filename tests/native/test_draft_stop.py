"""Drafts that end early: native and reference stop at the same guess, and never change the guesses made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geminate import LLM
from geminate.decoding.draft_rule import STOP_BINS, DraftRule, DraftStop, confidence_bin
from geminate.plan.batch import Rows


def rule(ahead: float, need: list[float], calibration: np.ndarray | None = None) -> DraftStop:
    table = np.ones(STOP_BINS) if calibration is None else calibration
    return DraftStop(
        calibration=table.astype(np.float32),
        ahead=np.full(len(need), ahead, np.float32),
        need=np.array(need, np.float32),
    )


def drafts(llm: LLM, stop: DraftStop | None, k: int = 6) -> tuple[list[int], list[float]]:
    assert llm.pair.drafter is not None
    ids = [2, 9, 300, 41, 7, 12]
    cache = llm.pair.target.new_cache()
    hidden, _ = llm.pair.target.extend([Rows(cache=cache, ids=ids, wanted=1)])
    made, sure = llm.pair.drafter.draft(5, hidden[-1], cache, k, DraftRule(), stop)
    return made.tolist(), sure.tolist()


@pytest.mark.parametrize("size", ["E2B", "31B"])
def test_stop(size: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    native = LLM(models[size], threads=1)
    monkeypatch.setenv("GEMINATE_ISA", "reference")
    reference = LLM(models[size], threads=1)
    whole, sure = drafts(native, None)
    assert len(whole) == len(sure) == 6 and drafts(native, rule(1.0, [0.0] * 6)) == (whole, sure)
    for end in range(1, 6):
        need = [0.0] * end + [2.0] * (6 - end)
        for llm in (native, reference):
            made, confidence = drafts(llm, rule(0.9, need))
            assert made == whole[:end] and np.allclose(confidence, sure[:end], rtol=1e-3)
    # The product of calibrated confidences decides: half of what the first three leave ends the draft after them.
    table = np.linspace(0.5, 0.9, STOP_BINS)
    left = np.prod([np.float32(table[confidence_bin(c)]) for c in sure[:3]])
    need = [0.0, 0.0, 0.0, float(left) * 0.5 * 1.01, 0.0, 0.0]
    assert drafts(native, rule(0.5, need, table))[0] == drafts(reference, rule(0.5, need, table))[0] == whole[:3]
    need[3] = float(left) * 0.5 * 0.99
    assert len(drafts(native, rule(0.5, need, table))[0]) > 3
