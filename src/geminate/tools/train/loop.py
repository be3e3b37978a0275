"""The training loop: batches in an order fixed by the seed, checkpoints a kill cannot spoil, the best drafter kept.

Everything that decides the next update is in the checkpoint or follows from (seed, step); a run that was killed and
resumed ends with the same bits as one that was not, on the CPU with the same number of threads.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from geminate.errors import TrainingError
from geminate.replacing import remove_abandoned, replacing
from geminate.tools.train.checkpoint import save_drafter
from geminate.tools.train.drafter import Drafter
from geminate.tools.train.optimiser import Optimiser, learning_rate
from geminate.tools.train.rounds import Acceptance, BatchLoss, LossSettings, batch_loss, measure
from geminate.tools.train.teacher import Batch, Teacher, collate
from geminate.tools.train.teacher_cache import TeacherCache

T = TypeVar("T")

TEMPORARY = ".checkpoint-"
CHECKPOINT_SECONDS = 120.0
TRIAL_PASSES = 4  # passes timed to turn --hours into a number of updates
POOL = 16  # batches of texts sorted by length together, so that little is padding


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How a run goes.

    Attributes:
        steps: updates, or None: as many as fit into ``hours``, decided once and kept in the checkpoint.
        batch_tokens: tokens of one pass. accumulate: passes of one update. rate: peak learning rate.
        evaluate_every: updates between two evaluations of the held-out texts.
    """

    steps: int | None
    hours: float
    batch_tokens: int
    accumulate: int
    rate: float
    weight_decay: float
    clip: float
    seed: int
    evaluate_every: int
    bf16: bool
    loss: LossSettings


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt with its answer, and how many of them are the prompt."""

    ids: list[int]
    prompt: int


@dataclass
class Progress:
    """Progress of the loop: an update, or with ``acceptance`` a measurement, whose loss and rate are no numbers.

    Attributes:
        rate: learning rate. seconds, tokens: of all updates so far.
    """

    step: int
    steps: int | None
    loss: float
    tokens_per_s: float
    rate: float
    seconds: float
    tokens: int
    acceptance: Acceptance | None = None


@dataclass
class State:
    """Where a run stands; ``history`` holds (step, held-out length, survival by position)."""

    step: int = 0
    steps: int | None = None
    best: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """One training run.

    Args:
        texts, held_out: what to learn from, and what decides the best.
        work: directory of checkpoint and best drafter. raw: the drafter's config.json.
        on_progress: called after every update.
    """

    def __init__(
        self,
        drafter: Drafter,
        raw: dict[str, Any],
        teacher: Teacher | TeacherCache,
        texts: list[Text],
        held_out: list[Text],
        settings: LoopSettings,
        work: Path,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.drafter, self.raw, self.teacher = drafter, raw, teacher
        self.texts, self.settings, self.work = texts, settings, work
        self.on_progress = on_progress or (lambda progress: None)
        self.device = drafter.table.device
        self.optimiser = Optimiser.of(drafter, weight_decay=settings.weight_decay, clip=settings.clip)
        self.state = State(steps=settings.steps)
        self.checkpoint, self.best = work / "checkpoint.pt", work / "best"
        self._epoch, self._epoch_start, self._plan = 0, 0, self._planned(0)
        parts = [teacher.targets(text.ids, text.prompt) for text in held_out]
        groups = _packed(parts, lambda part: len(part.ids), settings.batch_tokens)
        self.held_out = [collate(group, self.device) for group in groups]

    def resume(self) -> bool:
        """Go on from a checkpoint, if there is one.

        Raises:
            TrainingError: it is damaged.
        """
        if not self.checkpoint.exists():
            return False
        try:
            kept = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.drafter.load_state_dict(kept["drafter"])
            self.optimiser.load_state_dict(kept["optimiser"])
            self.state = State(**kept["state"])
        except Exception as error:  # torch raises many kinds for a damaged file
            raise TrainingError(
                f"{self.checkpoint} is damaged ({' '.join(str(error).split())[:120]}); start anew with --restart"
            ) from None
        return True

    def save(self) -> None:
        """Write the checkpoint beside the old one, then take its place.

        Raises:
            TrainingError: no room; the old checkpoint stays.
        """
        try:
            remove_abandoned(self.work, TEMPORARY)
            with replacing(self.checkpoint, TEMPORARY, durable=True, public=True) as file:
                torch.save(
                    {
                        "drafter": self.drafter.state_dict(),
                        "optimiser": self.optimiser.state_dict(),
                        "state": asdict(self.state),
                    },
                    file,
                )
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"cannot write {self.checkpoint}: {' '.join(str(error).split())[:120]}; "
                "free some space and run the same command again: it goes on from the last checkpoint"
            ) from None

    def run(self) -> State:
        """Train to the end; the best drafter by held-out acceptance stands in ``work/best``.

        Raises:
            TrainingError: a loss that is no number, no memory, no room on disk. KeyboardInterrupt: after a
                checkpoint, unless asked for twice.
        """
        try:
            if self.state.steps is None:
                self.state.steps = self._updates_that_fit()
            if self.state.step == 0:
                self.evaluate()
                self.save()
            saved = time.monotonic()
            while self.state.step < self.state.steps:
                with _held_interrupt() as asked:
                    self.update()
                    due = self.state.step % self.settings.evaluate_every == 0 or self.state.step == self.state.steps
                    if due:
                        self.evaluate()
                    # Only here, between updates, is there a state worth keeping.
                    if due or asked.is_set() or time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self.save()
                        saved = time.monotonic()
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _out_of_memory() from error
        except RuntimeError as error:
            if "memory" in str(error).lower():
                raise _out_of_memory() from error
            raise
        return self.state

    def _updates_that_fit(self) -> int:
        """How many updates ``hours`` have room for, by the time of a few passes that change nothing."""
        self._gradients(self.batch(0), torch.Generator())
        began = time.perf_counter()
        for number in range(TRIAL_PASSES):
            self._gradients(self.batch(number), torch.Generator())
        self.drafter.zero_grad(set_to_none=True)
        each = (time.perf_counter() - began) / TRIAL_PASSES * self.settings.accumulate
        return max(1, int(self.settings.hours * 3600 / each))

    def _gradients(self, batch: Batch, generator: torch.Generator) -> BatchLoss:
        made = batch_loss(self.drafter, batch, self.settings.loss, generator, bf16=self.settings.bf16)
        (made.value / self.settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return made

    def update(self) -> None:
        """One update of ``accumulate`` passes."""
        settings, state = self.settings, self.state
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + state.step)
        rows = torch.empty(0, dtype=torch.long, device=self.device)
        grads = torch.empty(0, self.drafter.table.shape[1], device=self.device)
        loss, tokens = 0.0, 0
        for part in range(settings.accumulate):
            batch = self.batch(state.step * settings.accumulate + part)
            made = self._gradients(batch, generator)
            value = float(made.value.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at update {state.step + 1}: stopped; the last checkpoint and the "
                    f"best drafter ({self.best}) stay; lower --learning-rate and start anew with --restart"
                )
            assert made.table.grad is not None
            rows, grads = torch.cat((rows, made.rows)), torch.cat((grads, made.table.grad))
            loss += value / settings.accumulate
            tokens += batch.rows
        unique, back = torch.unique(rows, return_inverse=True)
        summed = torch.zeros(len(unique), grads.shape[1], device=self.device).index_add_(0, back, grads)
        assert state.steps is not None
        rate = learning_rate(state.step, state.steps, settings.rate)
        norm = self.optimiser.step(rate, self.drafter, unique, summed)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient is no number at update {state.step + 1}: stopped; the last checkpoint and the best "
                f"drafter ({self.best}) stay; lower --learning-rate and start anew with --restart"
            )
        took = time.perf_counter() - began
        state.step += 1
        state.tokens += tokens
        state.seconds += took
        self.on_progress(Progress(state.step, state.steps, loss, tokens / took, rate, state.seconds, state.tokens))

    def evaluate(self) -> None:
        """Evaluate on the held-out texts; keep the drafter if it is the best so far."""
        seen = measure(self.drafter, self.held_out, self.settings.loss.steps)
        state = self.state
        state.history.append(
            {"step": state.step, "length": seen.length, "survival": seen.by_position, "recall": seen.recall}
        )
        if seen.length > state.best:
            state.best = seen.length
            save_drafter(self.drafter, self.raw, self.best)
        none = math.nan
        self.on_progress(Progress(state.step, state.steps, none, none, none, state.seconds, state.tokens, seen))

    def batch(self, number: int) -> Batch:
        """The ``number``-th batch: texts in an order that each epoch shuffles anew, batched by length."""
        if number < self._epoch_start:  # the trial looks at the first ones twice
            self._epoch, self._epoch_start, self._plan = 0, 0, self._planned(0)
        while number >= self._epoch_start + len(self._plan):
            self._epoch_start += len(self._plan)
            self._epoch += 1
            self._plan = self._planned(self._epoch)
        texts = [self.texts[i] for i in self._plan[number - self._epoch_start]]
        return collate([self.teacher.targets(text.ids, text.prompt) for text in texts], self.device)

    def _planned(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as indices of texts."""
        rng = random.Random(f"{self.settings.seed}/{epoch}")
        order = list(range(len(self.texts)))
        rng.shuffle(order)
        mean = sum(len(t.ids) for t in self.texts) / len(self.texts)
        pool = max(1, int(POOL * self.settings.batch_tokens / mean))
        plan: list[list[int]] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            plan += _packed(part, lambda i: len(self.texts[i].ids), self.settings.batch_tokens)
        rng.shuffle(plan)
        return plan


@contextlib.contextmanager
def _held_interrupt() -> Iterator[threading.Event]:
    """Hold a Ctrl-C back until the block is done, then raise it; a second one is raised at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt


def _packed(items: list[T], length: Callable[[T], int], most: int) -> list[list[T]]:
    """Sorted by length, neighbours together while longest x count stays within ``most``."""
    groups: list[list[T]] = []
    for item in sorted(items, key=length):
        if not groups or length(item) * (len(groups[-1]) + 1) > most:  # the latest is the longest
            groups.append([])
        groups[-1].append(item)
    return groups


def _out_of_memory() -> TrainingError:
    return TrainingError("out of memory; lower --batch-tokens (and raise --accumulate as much), or --max-length")
