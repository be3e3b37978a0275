"""Runs that are killed and go on, losses that are no number, full disks, and what stays after each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from geminate import LLM
from geminate.errors import TrainingError
from geminate.tools.train import loop as loop_module
from geminate.tools.train.checkpoint import load_drafter, tensors_of
from geminate.tools.train.clusters import cluster_recall, cluster_tokens, principal_rows
from geminate.tools.train.loop import Loop, LoopSettings, Text
from geminate.tools.train.rounds import LossSettings
from geminate.tools.train.teacher import Teacher

UPDATES = 6


def make_loop(work: Path, models_root: Path, **changes: Any) -> Loop:
    """A short run on a fabricated pair; the same every time."""
    torch.set_num_threads(1)
    llm = LLM(models_root / "E2B", weights="int8", threads=1)
    drafter, raw = load_drafter(models_root / "E2B-assistant", llm.config, "P")
    ids = torch.randint(3, llm.config.vocab_size, (14, 30), generator=torch.Generator().manual_seed(7)).tolist()
    texts = [Text(row[: 12 + i], 4) for i, row in enumerate(ids)]
    values: dict[str, Any] = {
        "steps": UPDATES, "hours": 1.0, "batch_tokens": 64, "accumulate": 2, "rate": 1e-3, "weight_decay": 0.01,
        "clip": 1.0, "seed": 5, "evaluate_every": 2, "bf16": False, "loss": LossSettings(steps=3, sampled=8), **changes,
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    return Loop(drafter, raw, Teacher(llm.pair.target), texts[3:], texts[:3], LoopSettings(**values), work)


def final_state(loop: Loop) -> dict[str, torch.Tensor]:
    return {**loop.drafter.state_dict(), **{f"rows.{k}": v for k, v in loop.optimiser.rows.state_dict().items()}}


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[3], str(Path(sys.argv[3]).parent)]
from train.test_loop import make_loop
from geminate.tools.train import loop as m
m.CHECKPOINT_SECONDS = 0.0
run = make_loop(Path(sys.argv[1]), Path(sys.argv[2]))
def slow(progress):
    print(progress.step, flush=True)
    time.sleep(0.05)
run.on_progress = slow
run.run()
"""


def test_killed_and_resumed_is_bit_for_bit_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    root = models["E2B"].parent
    whole = make_loop(tmp_path / "whole", root)
    assert not whole.resume()
    whole.run()
    tests = str(Path(__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "killed"), str(root), tests], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "3":
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert 0 < kept["state"]["step"] < UPDATES, "it was killed on the way"
    again = make_loop(tmp_path / "killed", root)
    assert again.resume()
    again.run()
    assert again.state.step == whole.state.step == UPDATES
    for (name, a), (other, b) in zip(final_state(whole).items(), final_state(again).items(), strict=True):
        assert name == other and torch.equal(a, b), name
    assert [h["length"] for h in whole.state.history] == [h["length"] for h in again.state.history]
    assert (tmp_path / "killed" / "best" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "best" / "model.safetensors"
    ).read_bytes()


def test_training_learns_and_another_seed_differs(models: dict[str, Path], tmp_path: Path) -> None:
    root = models["E2B"].parent
    losses: list[float] = []
    run = make_loop(tmp_path / "a", root, steps=40, rate=5e-3, evaluate_every=100)
    run.on_progress = lambda p: losses.append(p.loss)
    run.run()
    losses = [x for x in losses if x == x]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    first = make_loop(tmp_path / "b", root, steps=2)
    second = make_loop(tmp_path / "c", root, steps=2, seed=6)
    first.run()
    second.run()
    assert not torch.equal(first.drafter.table, second.drafter.table)


def test_a_loss_that_is_no_number_stops_and_leaves_the_last_checkpoint(models: dict[str, Path], tmp_path: Path) -> None:
    run = make_loop(tmp_path, models["E2B"].parent)
    good = run.batch

    def poisoned(number: int) -> Any:
        batch = good(number)
        if number >= 6:
            batch.hidden.fill_(float("nan"))
        return batch

    run.batch = poisoned  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"loss is nan at update 4.*--learning-rate"):
        run.run()
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == 2 and torch.isfinite(kept["drafter"]["table"]).all()
    assert (tmp_path / "best" / "config.json").exists()


def test_a_full_disk_leaves_the_old_checkpoint(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_loop(tmp_path, models["E2B"].parent)
    run.state.steps = 2
    run.run()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(value: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left"):
        run.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "checkpoint.pt"]


def test_out_of_memory_names_the_setting(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_loop(tmp_path, models["E2B"].parent)

    def huge(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 999 bytes")

    monkeypatch.setattr(loop_module, "batch_loss", huge)
    with pytest.raises(TrainingError, match="lower --batch-tokens"):
        run.run()


def test_damaged_checkpoint_is_said(models: dict[str, Path], tmp_path: Path) -> None:
    run = make_loop(tmp_path, models["E2B"].parent)
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="--restart"):
        run.resume()


def test_hours_become_a_number_of_updates(models: dict[str, Path], tmp_path: Path) -> None:
    run = make_loop(tmp_path, models["E2B"].parent, steps=None, hours=1 / 3600)
    before = {k: v.clone() for k, v in run.drafter.state_dict().items()}
    steps = run._updates_that_fit()
    assert steps >= 1
    assert all(torch.equal(v, before[k]) for k, v in run.drafter.state_dict().items()), "the trial changes nothing"
    assert all(p.grad is None for p in run.drafter.parameters())


def test_ctrl_c_waits_for_the_update_and_saves(models: dict[str, Path], tmp_path: Path) -> None:
    run = make_loop(tmp_path, models["E2B"].parent)

    def stop(progress: loop_module.Progress) -> None:
        if progress.step == 3 and progress.acceptance is None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    run.on_progress = stop
    with pytest.raises(KeyboardInterrupt):
        run.run()
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == 3
    assert json.loads((tmp_path / "best" / "config.json").read_text())["model_type"] == "gemma4_assistant"


def test_a_second_ctrl_c_leaves_the_last_whole_checkpoint(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is heeded in the middle of an update, whose half-done state must not be kept."""
    run = make_loop(tmp_path, models["E2B"].parent)
    step = run.optimiser.step

    def twice(*args: Any) -> float:
        norm = step(*args)
        if run.state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return norm

    monkeypatch.setattr(run.optimiser, "step", twice)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 2
    again = make_loop(tmp_path, models["E2B"].parent)
    again.resume()
    again.run()
    whole = make_loop(tmp_path / "whole", models["E2B"].parent)
    whole.run()
    assert all(torch.equal(a, b) for a, b in zip(final_state(whole).values(), final_state(again).values(), strict=True))


def test_batches_do_not_depend_on_what_was_asked_before(models: dict[str, Path], tmp_path: Path) -> None:
    fresh, used = (make_loop(tmp_path, models["E2B"].parent) for _ in range(2))
    for number in (0, 9, 1, 30):
        used.batch(number)
    assert len(fresh._plan) < 20, "several epochs are looked at"
    for number in (30, 0, 9, 31):
        assert torch.equal(fresh.batch(number).ids, used.batch(number).ids)


def test_clusters_are_equal_in_size_and_better_than_chance(models: dict[str, Path]) -> None:
    llm = LLM(models["E2B"])
    drafter, _ = load_drafter(models["E2B"].with_name("E2B-assistant"), llm.config, "P")
    assert drafter.centroids is not None
    g = torch.Generator().manual_seed(0)
    count, vocab = drafter.config.num_centroids, llm.config.vocab_size
    heart = torch.randn(count, drafter.table.shape[1], generator=g)
    kind = torch.randperm(vocab, generator=g) % count
    drafter.table.copy_(heart[kind] + 0.1 * torch.randn(drafter.table.shape, generator=g))
    cluster_tokens(drafter)
    owner = drafter.owner()
    assert torch.equal(torch.bincount(owner), torch.full((count,), vocab // count))
    assert sorted(drafter.token_ordering.tolist()) == list(range(vocab))
    tokens = torch.randint(vocab, (300,), generator=g)
    recall = cluster_recall(drafter, drafter.table[tokens], tokens)
    assert recall > 0.95, "a token's own row finds its cluster"
    chance = drafter.config.centroid_top_k / count
    shuffled = cluster_recall(drafter, drafter.table[tokens], tokens[torch.randperm(300, generator=g)])
    assert shuffled < chance + 0.25


def test_principal_rows_keep_distances() -> None:
    g = torch.Generator().manual_seed(0)
    flat = torch.randn(200, 4, generator=g) @ torch.randn(4, 24, generator=g)
    rows = principal_rows(flat, 6)
    assert rows.shape == (200, 6)
    far, near = torch.cdist(flat, flat).flatten(), torch.cdist(rows, rows).flatten()
    assert float(torch.corrcoef(torch.stack((far, near)))[0, 1]) > 0.999
    assert principal_rows(flat[:, :3], 8).shape == (200, 8)


def test_state_dict_names_are_transformers(models: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    for size in ("E2B", "31B"):
        directory = models[size].with_name(f"{size}-assistant")
        drafter, _ = load_drafter(directory, LLM(models[size]).config, "P")
        kept = load_file(directory / "model.safetensors")
        made = tensors_of(drafter)
        known = {n: t for n, t in kept.items() if n in made}
        assert made.keys() == known.keys()
        for name, tensor in known.items():
            assert torch.equal(made[name].float(), tensor.float()), name
