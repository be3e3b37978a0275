"""The work directory of a run: what binds the next command, and what a failure leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geminate.errors import TrainingError
from geminate.tools.train.curves import COLUMNS, Curves
from geminate.tools.train.loop import Progress
from geminate.tools.train.rounds import Acceptance
from geminate.tools.train.workspace import Workspace

LOOP = {"seed": 0, "rate": 1}
PLAN: dict[str, Any] = {"target": "m", "new_tokens": 20, "temperature": None, "hidden": None, "loop": LOOP}


def space(tmp_path: Path, **changes: Any) -> Workspace:
    return Workspace(tmp_path / "w", PLAN | changes)


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    first = space(tmp_path)
    first.prepare(restart=False)
    first.answers.write_text("")
    first.leave()
    assert not first.path.exists()
    space(tmp_path, target="other", new_tokens=3).prepare(restart=False)


def test_answers_bind_what_they_depend_on(tmp_path: Path) -> None:
    first = space(tmp_path)
    first.prepare(restart=False)
    first.answers.write_text('{"key": "a", "ids": [1, 2]}\n')
    first.leave()
    assert first.answers.exists(), "answers may have taken hours"
    space(tmp_path, hidden=64, loop={"seed": 0, "rate": 2}).prepare(restart=False)
    for changes, name in (({"new_tokens": 40}, "new_tokens"), ({"loop": {"seed": 5}}, "seed")):
        with pytest.raises(TrainingError, match=rf"other settings \({name}\)"):
            space(tmp_path, **changes).prepare(restart=False)
    first.forget_answers()
    space(tmp_path, new_tokens=40).prepare(restart=False)


def test_a_checkpoint_binds_everything(tmp_path: Path) -> None:
    first = space(tmp_path)
    first.prepare(restart=False)
    first.checkpoint.write_bytes(b"x")
    with pytest.raises(TrainingError, match=r"other settings \(hidden\)"):
        space(tmp_path, hidden=64).prepare(restart=False)
    space(tmp_path).prepare(restart=False)
    space(tmp_path, hidden=64).prepare(restart=True)
    assert not first.checkpoint.exists()


def test_curves_go_on(tmp_path: Path) -> None:
    nan = float("nan")
    for step in (1, 2):
        curves = Curves(tmp_path / "curves.csv")
        curves.add(Progress(step, 2, 3.5 / step, 100.0, 1e-3, 0.5 * step, 40 * step))
        seen = Acceptance(tried=[10, 4], accepted=[4, 1])
        curves.add(Progress(step, 2, nan, nan, nan, 0.5 * step, 40 * step, seen))
        curves.close()
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 5
    assert lines[1] == "1,0.5,40,3.5,0.001,,," and lines[4] == "2,1.0,80,,,1.5,0.4000 0.1000,"
