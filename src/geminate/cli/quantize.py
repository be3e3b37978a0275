"""``geminate quantize``: a quantized copy of a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from geminate.cli import common as c
from geminate.tools.quantize.run import quantize_model
from geminate.weights.presets import check_preset

ModelPos = Annotated[str | None, typer.Argument(help="Directory, GGUF or hub id; default: the embedded pair.")]


def quantize_command(
    out: Annotated[Path, typer.Option("--out", help="A directory that does not exist yet.")],
    model: ModelPos = None,
    weights: Annotated[str, typer.Option("--weights", help="int8, int4+ or int4.")] = "int4+",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="A text like what the model is used for: errors count by it.")
    ] = None,
    calibration_tokens: Annotated[int, typer.Option("--calibration-tokens", help="Tokens of it that are used.")] = 8192,
    threads: c.ThreadsOpt = None,
    json_out: Annotated[bool, typer.Option("--json", help="One JSON line, last.")] = False,
) -> None:
    """Write a quantized copy that is served as it is, with less error than plain rounding."""
    with c.user_errors():
        preset = check_preset(weights)
        text = None if calibration is None else c.read_text(calibration)
        bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(), console=c.err, transient=True, disable=not c.err.is_terminal,
        )  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def stage(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        with bars:
            made = quantize_model(
                model, out, preset, calibration=text, calibration_tokens=calibration_tokens, threads=threads,
                on_stage=stage, on_message=c.say,
            )  # fmt: skip
        ways = {
            "taken as stored": made.exact, "with the codes of their training": made.trained,
            "by search": made.searched, "by search weighted by calibration": made.weighted,
        }  # fmt: skip
        said = ", ".join(f"{count} {way}" for way, count in ways.items() if count)
        sys.stdout.write(f"{made.directory}: {made.nbytes / 1e6:,.1f} MB; matrices: {said}\n")
        if json_out:
            body = {"directory": str(made.directory), "bytes": made.nbytes, "weights": preset, "exact": made.exact,
                    "trained": made.trained, "searched": made.searched, "weighted": made.weighted}  # fmt: skip
            sys.stdout.write(json.dumps(body) + "\n")
        sys.stdout.flush()
