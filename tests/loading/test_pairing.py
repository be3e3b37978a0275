"""What is known of a pair, and a drafter for a checkpoint for devices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from geminate import LLM, SamplingParams
from geminate.cli.app import app
from geminate.families.registry import load_assistant_config
from geminate.loading.hub.names import drafter_names
from geminate.loading.pairing import RECORD, pairing, record
from geminate.tools.train.checkpoint import save_drafter, scratch_config
from geminate.tools.train.drafter import Drafter
from geminate.tools.train.job import _initialise
from geminate.tools.train.teacher import Teacher
from support.mobile import changed, copied, reference

PARAMS = SamplingParams(max_tokens=40, temperature=0.8, seed=3, ignore_eos=True)


def drafter_for(llm: LLM, raw_target: dict[str, object], out: Path, *, recorded: bool) -> Path:
    """A drafter from scratch, as `geminate train drafter` would begin."""
    raw = scratch_config(
        llm.config, raw_target, hidden=32, layers=2, heads=None, intermediate=None, centroid_head=False
    )
    torch.manual_seed(0)
    drafter = Drafter(load_assistant_config(raw), "P")
    _initialise(drafter)
    table = llm.pair.target.store.embedding().dequantized()
    drafter.table.data.copy_(torch.from_numpy(np.ascontiguousarray(np.resize(table, tuple(drafter.table.shape)))))
    save_drafter(drafter, {**raw, RECORD: dict(record(llm.pair))} if recorded else raw, out)
    return out


def note(target: Path, drafter: Path, weights: str = "auto") -> tuple[bool | None, str]:
    found = pairing(LLM(target, drafter=drafter, weights=weights, use_cache=False).pair)  # type: ignore[arg-type]
    assert found is not None
    return found.matched, found.note


@pytest.mark.parametrize("name", ["e2b", "e4b"])
def test_a_drafter_for_mobile_weights(name: str, tmp_path: Path) -> None:
    target = copied(name, tmp_path / "gemma-it-qat-mobile-transformers")
    alone = LLM(target, drafter=None, use_cache=False)
    raw = json.loads((target / "config.json").read_text())
    ids = reference(name)["ids"].tolist()
    lessons = Teacher(alone.pair.target).targets(ids, 20)
    assert torch.isfinite(lessons.embedded).all() and torch.isfinite(lessons.top_logits).all()

    plain = drafter_for(alone, raw, tmp_path / "gemma-it-assistant", recorded=False)
    llm = LLM(target, use_cache=False)
    assert llm.pair.located.drafter == plain, "the drafter of the plain weights stands in"
    matched, text = note(target, plain)
    assert matched is False and "geminate train drafter" in text
    trained = drafter_for(alone, raw, target.with_name(target.name + "-assistant"), recorded=True)
    llm = LLM(target, use_cache=False)
    assert llm.pair.located.drafter == trained
    assert note(target, trained) == (True, "the drafter was trained for these weights")
    outputs = [llm.generate([ids], PARAMS, speculation=k)[0].token_ids for k in (0, 1, 4, 7)]
    assert outputs.count(outputs[0]) == len(outputs)

    other = changed(
        name, tmp_path / "other", tensors=lambda t: (t["model.layers.0.mlp.up_proj.weight"].fill_(7), None)[1]
    )
    matched, text = note(other, trained)
    assert matched is False and "other weights" in text


def test_a_drafter_for_other_weights(models: dict[str, Path], tmp_path: Path) -> None:
    target = models["31B"]
    llm = LLM(target, drafter=None, weights="int8", use_cache=False)
    raw = json.loads((target / "config.json").read_text())
    drafter = drafter_for(llm, raw, tmp_path / "x", recorded=True)
    assert note(target, drafter, "int8") == (True, "the drafter was trained for these weights")
    matched, text = note(target, drafter, "int4")
    assert matched and "in int8: in int4" in text
    assert note(target, models["31B"].with_name("31B-assistant"))[0] is True, "the same name"
    shutil.copytree(models["31B"].with_name("31B-assistant"), tmp_path / "y")
    assert note(target, tmp_path / "y")[0] is None


def test_info_warns(tmp_path: Path) -> None:
    target = copied("e2b", tmp_path / "m-qat-mobile-ct")
    llm = LLM(target, drafter=None, use_cache=False)
    drafter_for(llm, json.loads((target / "config.json").read_text()), tmp_path / "m-assistant", recorded=False)
    told = CliRunner().invoke(app, ["info", str(target)])
    assert told.exit_code == 0 and "warning: the target has mobile weights" in told.output
    assert "weights: mobile" in told.output
    body = json.loads(CliRunner().invoke(app, ["info", str(target), "--json"]).stdout)
    assert body["weights"] == "mobile" and body["drafter"]["pairing"]["matched"] is False


def test_names_of_drafters() -> None:
    assert drafter_names("google/gemma-4-E2B-it-qat-mobile-ct") == [
        "google/gemma-4-E2B-it-qat-mobile-ct-assistant",
        "google/gemma-4-E2B-it-assistant",
    ]
    assert drafter_names("gemma-4-E2B-it") == ["gemma-4-E2B-it-assistant"]
