"""The work directory of a training run, ``OUT.training``: what it holds, and which command it belongs to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geminate.errors import TrainingError

PLAN, ANSWERS, CHECKPOINT, BEST = "plan.json", "answers.jsonl", "checkpoint.pt", "best"
# What answers depend on; with another value of these they are answers to another question.
OF_ANSWERS = ("target", "adapter", "weights", "as_is", "max_length", "new_tokens", "temperature")


class Workspace:
    """Files of a run.

    A run that has answered or learned something binds later commands with the same ``--out`` to its settings; one that
    has failed before is forgotten.

    Args:
        path: the directory. plan: the settings, as JSON has them.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        self.path, self.plan = path, json.loads(json.dumps(plan))

    @property
    def answers(self) -> Path:
        """Answers of the target."""
        return self.path / ANSWERS

    @property
    def checkpoint(self) -> Path:
        """Where the training stands."""
        return self.path / CHECKPOINT

    def prepare(self, *, restart: bool) -> None:
        """Make the directory, or make sure that it belongs to this command.

        Raises:
            TrainingError: it belongs to another one, or cannot be written.
        """
        try:
            if restart:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)
            names = self._others()
            if names is not None:
                raise TrainingError(
                    f"{self.path} holds a run with other settings ({', '.join(names) or 'unreadable'}); "
                    "repeat that command to go on with it, use --restart to begin anew, or another --out"
                )
            (self.path / PLAN).write_text(json.dumps(self.plan, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"cannot write to {self.path}: {error.strerror}") from None

    def _others(self) -> list[str] | None:
        """Settings that keep this command from going on with what is there; None if nothing does."""
        trained, answered = self.checkpoint.exists(), self._answered()
        if not (trained or answered):
            return None
        try:
            before = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        if not isinstance(before, dict):
            return []
        if trained:
            names = sorted(k for k in {*self.plan, *before} if before.get(k) != self.plan.get(k))
        else:
            names = sorted(k for k in OF_ANSWERS if before.get(k) != self.plan.get(k))
            if _seed(before) != _seed(self.plan):
                names.append("seed")
        return names or None

    def _answered(self) -> bool:
        return self.answers.exists() and self.answers.stat().st_size > 0

    def forget_answers(self) -> None:
        """Remove answers that nothing can be learned from: they would bind the next command to their settings."""
        self.answers.unlink(missing_ok=True)

    def leave(self) -> None:
        """After a failure: remove the directory if it holds nothing that a next command could go on with."""
        if not (self._answered() or self.checkpoint.exists() or (self.path / BEST).exists()):
            shutil.rmtree(self.path, ignore_errors=True)


def _seed(plan: Mapping[str, Any]) -> Any:
    loop = plan.get("loop")
    return loop.get("seed") if isinstance(loop, dict) else None
