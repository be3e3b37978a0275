"""``geminate train drafter``."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from geminate.cli import common as c
from geminate.runtime.drafter import RopePosition
from geminate.weights.presets import Preset

if TYPE_CHECKING:  # torch is loaded by the command alone
    from geminate.tools.train.job import Outcome
    from geminate.tools.train.loop import Progress as Step

app = typer.Typer(help="Train the drafter of a target.", no_args_is_help=True, rich_markup_mode=None)
out = Console(highlight=False)
LOG_SECONDS = 30.0
NOT_BETTER = 3

DataOpt = Annotated[Path, typer.Option("--data", help="Prompts: .jsonl or .txt, or a directory of such files.")]
DirectoryOpt = Annotated[
    Path, typer.Option("--out", help="Where the new drafter goes; DIR.training beside it is work.")
]
TargetOpt = Annotated[str | None, typer.Option("--target", "-m", help="Directory or hub id; default: embedded.")]
OldOpt = Annotated[str, typer.Option("--drafter", help="The drafter to beat: auto, none, a directory or hub id.")]
InitOpt = Annotated[str, typer.Option("--init", help="Start from: drafter (the old one), scratch, or a directory.")]
AsIsOpt = Annotated[bool, typer.Option("--as-is", help="Take the answers of the data, not the target's own.")]
HoursOpt = Annotated[float, typer.Option("--hours", help="Time for the training itself.")]
UpdatesOpt = Annotated[int | None, typer.Option("--updates", help="A number of updates instead of --hours.")]
MaxLengthOpt = Annotated[int, typer.Option("--max-length", help="Tokens of prompt and answer together.")]
NewTokensOpt = Annotated[int, typer.Option("--new-tokens", help="Most tokens of an answer.")]
TemperatureOpt = Annotated[
    float | None, typer.Option("--temperature", "-t", help="Of answers and gate; default: the model's.")
]
BatchTokensOpt = Annotated[int, typer.Option("--batch-tokens", help="Tokens of one pass.")]
AccumulateOpt = Annotated[int, typer.Option("--accumulate", help="Passes of one update.")]
LearningRateOpt = Annotated[
    float | None, typer.Option("--learning-rate", help="Peak; default 5e-4, from scratch 2e-3.")
]
LossOpt = Annotated[str, typer.Option("--loss", help="lk, mix, ce or tv: see docs/training.md.")]
SoftOpt = Annotated[float, typer.Option("--soft", help="Weight of the target's softmax beside its best token.")]
DraftStepsOpt = Annotated[int, typer.Option("--draft-steps", help="Steps unrolled in training.")]
OwnTokensOpt = Annotated[float, typer.Option("--own-tokens", help="Share of rounds that live on own guesses.")]
SampledOpt = Annotated[int, typer.Option("--sampled", help="Random tokens scored beside those the target names.")]
EvaluateEveryOpt = Annotated[int, typer.Option("--evaluate-every", help="Updates between held-out measurements.")]
HiddenOpt = Annotated[int | None, typer.Option("--hidden", help="Width of a drafter from scratch.")]
LayersOpt = Annotated[int | None, typer.Option("--layers", help="Its layers.")]
HeadsOpt = Annotated[int | None, typer.Option("--heads", help="Its attention heads.")]
IntermediateOpt = Annotated[int | None, typer.Option("--intermediate", help="Its MLP width.")]
NoCentroidsOpt = Annotated[bool, typer.Option("--no-centroids", help="From scratch: a full head, no clusters.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Of answers, order and new weights.")]
LessonsOpt = Annotated[
    float, typer.Option("--lessons-gb", help="Disk for what the target said of a text; 0: ask again.")
]
DeviceOpt = Annotated[str, typer.Option("--device", help="cpu or cuda: where the drafter is trained.")]
DtypeOpt = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16: arithmetic of the layers.")]
RestartOpt = Annotated[bool, typer.Option("--restart", help="Throw an earlier run's work away.")]
AsJsonOpt = Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON line, last.")]


@app.callback()
def root() -> None:
    """Train the drafter of a target."""


@app.command("drafter")
def drafter(
    data: DataOpt,
    directory: DirectoryOpt,
    target: TargetOpt = None,
    old: OldOpt = "auto",
    init: InitOpt = "",
    weights: c.WeightsOpt = "auto",
    as_is: AsIsOpt = False,
    hours: HoursOpt = 0.5,
    updates: UpdatesOpt = None,
    max_length: MaxLengthOpt = 384,
    new_tokens: NewTokensOpt = 160,
    temperature: TemperatureOpt = None,
    batch_tokens: BatchTokensOpt = 4096,
    accumulate: AccumulateOpt = 1,
    learning_rate: LearningRateOpt = None,
    loss: LossOpt = "lk",
    soft: SoftOpt = 0.4,
    draft_steps: DraftStepsOpt = 4,
    own_tokens: OwnTokensOpt = 0.3,
    sampled: SampledOpt = 2048,
    evaluate_every: EvaluateEveryOpt = 100,
    hidden: HiddenOpt = None,
    layers: LayersOpt = None,
    heads: HeadsOpt = None,
    intermediate: IntermediateOpt = None,
    no_centroids: NoCentroidsOpt = False,
    rope_position: c.RopeOpt = "P",
    seed: SeedOpt = 0,
    threads: c.ThreadsOpt = None,
    lessons_gb: LessonsOpt = 10.0,
    device: DeviceOpt = "cpu",
    dtype: DtypeOpt = "auto",
    restart: RestartOpt = False,
    as_json: AsJsonOpt = False,
) -> None:
    """Train a drafter for the weights that are served; written only if it beats the old one (else exit code 3)."""
    if importlib.util.find_spec("torch") is None:
        c.fail("training needs torch: pip install 'geminate[train]'")
    from geminate.tools.train import job as j
    from geminate.tools.train.hardware import has_fast_bf16
    from geminate.tools.train.loop import LoopSettings
    from geminate.tools.train.loss import LOSSES, LossName
    from geminate.tools.train.rounds import LossSettings

    if loss not in LOSSES:
        c.fail(f"--loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    if dtype not in ("auto", "float32", "bfloat16"):
        c.fail(f"--dtype must be auto, float32 or bfloat16, not {dtype!r}")
    if device not in ("cpu", "cuda"):
        c.fail(f"--device must be cpu or cuda, not {device!r}")
    start = init or ("scratch" if old == "none" else "drafter")
    if learning_rate is None:
        learning_rate = 2e-3 if start == "scratch" else 5e-4
    settings = LoopSettings(
        steps=updates, hours=hours, batch_tokens=batch_tokens, accumulate=accumulate,
        rate=learning_rate, weight_decay=0.01, clip=1.0, seed=seed,
        evaluate_every=evaluate_every, bf16=dtype == "bfloat16" or (dtype == "auto" and has_fast_bf16(device)),
        loss=LossSettings(name=cast(LossName, loss), steps=draft_steps, soft=soft, own_tokens=own_tokens,
                          sampled=sampled),
    )  # fmt: skip
    task = j.Job(
        target=target, drafter=None if old == "none" else old, weights=cast(Preset, weights), data=data,
        out=directory, init=start, as_is=as_is, max_length=max_length, new_tokens=new_tokens, temperature=temperature,
        rope_position=cast(RopePosition, rope_position), hidden=hidden, layers=layers, heads=heads,
        intermediate=intermediate, centroid_head=not no_centroids, lessons_gb=lessons_gb,
        threads=threads, device=device, loop=settings,
    )  # fmt: skip
    with c.user_errors():
        shown = Show()
        try:
            with shown.bars:
                outcome = j.run(
                    task, command=shlex.join(["geminate", *sys.argv[1:]]), restart=restart, on_message=c.say,
                    on_stage=shown.stage, on_progress=shown.training,
                )  # fmt: skip
        except KeyboardInterrupt:
            work = directory.with_name(directory.name + ".training")
            best = work / "best"
            c.say(f"interrupted; the best drafter so far is {best}" if best.exists() else "interrupted")
            c.say("run the same command again to go on")
            raise typer.Exit(130) from None
        report(outcome)
        if as_json:
            sys.stdout.write(json.dumps({
                "better": outcome.better, "directory": str(outcome.directory), "updates": outcome.state.step,
                "seconds": round(outcome.state.seconds, 1), "tokens": outcome.state.tokens,
                "comparisons": [x.as_dict() for x in outcome.comparisons], "history": outcome.state.history,
            }) + "\n")  # fmt: skip
            sys.stdout.flush()
        if not outcome.better:
            raise typer.Exit(NOT_BETTER)


class Show:
    """Progress on stderr: a bar for each part, and a line for every held-out measurement."""

    def __init__(self) -> None:
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(), console=c.err, transient=True, disable=not c.err.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._said = time.monotonic()

    def _log(self, line: str) -> None:
        """Where no bar can be drawn, a line every half minute."""
        if self.bars.disable and time.monotonic() - self._said > LOG_SECONDS:
            self._said = time.monotonic()
            c.say(line)

    def stage(self, what: str, done: int, total: int) -> None:
        """A part that is not training."""
        self._log(f"{what}: {done} of {total}")
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what, total=total)
        self.bars.update(self._tasks[what], completed=done, total=total)

    def training(self, p: Step) -> None:
        """An update or a measurement."""
        if p.acceptance is not None:
            survival = " ".join(f"{s:.3f}" for s in p.acceptance.by_position)
            recall = "" if p.acceptance.recall is None else f", cluster recall {p.acceptance.recall:.3f}"
            c.say(f"update {p.step}: held-out tokens a round {p.acceptance.length:.3f} (survival {survival}){recall}")
            return
        what = f"training: loss {p.loss:.3f}, {p.tokens_per_s:,.0f} tokens/s"
        self._log(f"update {p.step} of {p.steps}, {what}")
        self.stage("training", p.step, p.steps or 0)
        self.bars.update(self._tasks["training"], description=what)


def report(outcome: Outcome) -> None:
    """The gate's table and verdict."""
    table = Table("category", "prompts", "before", "now", "difference, 95 %", box=None)
    for x in outcome.comparisons:
        table.add_row(x.category, str(x.prompts), f"{x.old:.3f}", f"{x.new:.3f}", f"{x.low:+.3f} to {x.high:+.3f}")
    out.print("held-out acceptance length as served (tokens a round at 4 guesses)")
    out.print(table)
    verdict = "better: written to" if outcome.better else "NOT better than the old drafter; for the record in"
    out.print(f"{verdict} {outcome.directory}", soft_wrap=True)
