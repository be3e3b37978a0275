"""Curves of a training run: a CSV file in the work directory, and TensorBoard's event files if they are asked for."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geminate.errors import ParameterError, TrainingError
from geminate.tools.train.loop import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "curves.csv"
COLUMNS = ("update", "seconds", "tokens", "loss", "learning_rate", "held_out_length", "survival", "recall")


class Curves:
    """Writes a line for every update and every held-out measurement; columns that do not apply stay empty.

    Args:
        path: the CSV file; a run that goes on appends to it.
        tensorboard: directory of event files, or None.

    Raises:
        ParameterError: TensorBoard is asked for and not installed. TrainingError: the file cannot be written.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self._events = None if tensorboard is None else _event_writer(tensorboard)
        try:
            begun = path.exists() and path.stat().st_size > 0
            self._file = path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise TrainingError(f"cannot write {path}: {error.strerror}") from None
        self._rows = csv.writer(self._file, lineterminator="\n")
        if not begun:
            self._rows.writerow(COLUMNS)

    def add(self, p: Progress) -> None:
        """An update or a measurement."""
        values: dict[str, Any] = {"update": p.step, "seconds": round(p.seconds, 3), "tokens": p.tokens}
        numbers: dict[str, float] = {}
        if p.acceptance is None:
            numbers = {"loss": p.loss, "learning_rate": p.rate}
        else:
            numbers["held_out_length"] = p.acceptance.length
            if p.acceptance.recall is not None:
                numbers["recall"] = p.acceptance.recall
            values["survival"] = " ".join(f"{s:.4f}" for s in p.acceptance.by_position)
        values |= {name: f"{number:.6g}" for name, number in numbers.items() if math.isfinite(number)}
        self._rows.writerow([values.get(name, "") for name in COLUMNS])
        self._file.flush()
        if self._events is not None:
            self._event(p, numbers)

    def _event(self, p: Progress, numbers: dict[str, float]) -> None:
        assert self._events is not None
        for name, number in numbers.items():
            self._events.add_scalar(name, number, p.step)
        for position, survival in enumerate(p.acceptance.by_position if p.acceptance else (), 1):
            self._events.add_scalar(f"survival/{position}", survival, p.step)

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def check_tensorboard() -> None:
    """Refuse ``--tensorboard`` before anything is loaded.

    Raises:
        ParameterError: the package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ParameterError("--tensorboard needs the package tensorboard (pip install tensorboard); the curves are in "
                             f"OUT.training/{FILE} without it")  # fmt: skip


def _event_writer(directory: Path) -> SummaryWriter:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory))
