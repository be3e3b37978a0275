"""``geminate train drafter``."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from geminate.cli.bars import Bars
from geminate.cli.console import fail, out, say, tell, user_errors, write_json
from geminate.cli.flags import Group, JsonOpt, ModelArg, loading, one_model, options
from geminate.tools.train.options import TrainOptions

if TYPE_CHECKING:  # torch is loaded by the command alone
    from geminate.tools.train.job import Job, Outcome
    from geminate.tools.train.loop import Progress

NOT_BETTER = 3
OPTIONS = Group(TrainOptions)  # its --target is the alias of MODEL here
LOADING = loading("adapter", "weights", "rope_position", "threads")


@options(OPTIONS, LOADING)
@user_errors()
def drafter(model: ModelArg = None, json_out: JsonOpt = False, **given: Any) -> None:
    """Train a drafter for the weights that are served; written only if it beats the old one (else exit code 3)."""
    if importlib.util.find_spec("torch") is None:
        fail("training needs torch, which is not installed; in a checkout: pip install '.[train]'")
    from geminate.tools.train.job import Job

    given["target"] = one_model(model, given["target"])
    train, loaded = OPTIONS.take(given), LOADING.take(given)
    job = Job.of(train, loaded)
    outcome = _run(job, restart=train.restart)
    report(outcome)
    if json_out:
        write_json({
            "better": outcome.better, "directory": str(outcome.directory), "updates": outcome.state.step,
            "seconds": round(outcome.state.seconds, 1), "tokens": outcome.state.tokens,
            "comparisons": [x.as_dict() for x in outcome.comparisons], "history": outcome.state.history,
        })  # fmt: skip
    if not outcome.better:
        raise typer.Exit(NOT_BETTER)


def _run(job: Job, *, restart: bool) -> Outcome:
    from geminate.tools.train.job import run

    shown = Show()
    try:
        with shown.bars:
            return run(
                job,
                command=shlex.join(["geminate", *sys.argv[1:]]),
                restart=restart,
                on_message=say,
                on_stage=shown.stage,
                on_progress=shown.training,
            )
    except KeyboardInterrupt:
        best = job.out.with_name(job.out.name + ".training") / "best"
        say(f"interrupted; the best drafter so far is {best}" if best.exists() else "interrupted")
        say("run the same command again to go on")
        raise typer.Exit(130) from None


class Show:
    """Progress on stderr: a bar for each part, and a line for every held-out measurement."""

    def __init__(self) -> None:
        self.bars = Bars()

    def stage(self, what: str, done: int, total: int) -> None:
        """A part that is not training."""
        self.bars.part(what, done, total)

    def training(self, p: Progress) -> None:
        """An update or a measurement."""
        if p.acceptance is not None:
            survival = " ".join(f"{s:.3f}" for s in p.acceptance.by_position)
            recall = "" if p.acceptance.recall is None else f", cluster recall {p.acceptance.recall:.3f}"
            say(f"update {p.step}: held-out tokens per round {p.acceptance.length:.3f} (survival {survival}){recall}")
            return
        what = f"training: loss {p.loss:.3f}, {p.tokens_per_s:,.0f} tokens/s"
        self.bars.part("training", p.step, p.steps or 0, what)


def report(outcome: Outcome) -> None:
    """The gate's table and verdict."""
    table = Table("category", "prompts", "before", "now", "difference, 95 %", box=None)
    for x in outcome.comparisons:
        table.add_row(x.category, str(x.prompts), f"{x.old:.3f}", f"{x.new:.3f}", f"{x.low:+.3f} to {x.high:+.3f}")
    out.print("held-out acceptance length as served (tokens per round with drafts of 4)")
    out.print(table)
    verdict = "better: written to" if outcome.better else "NOT better than the old drafter; for the record in"
    tell(f"{verdict} {outcome.directory}")
