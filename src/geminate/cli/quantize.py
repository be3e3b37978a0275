"""``geminate quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geminate.cli.bars import Bars
from geminate.cli.console import read_text, say, user_errors, write, write_json
from geminate.cli.flags import JsonOpt, ModelArg, loading
from geminate.cli.flags import options as with_options
from geminate.tools.quantize.run import quantize_model
from geminate.weights.presets import check_preset

LOADING = loading("drafter", "adapter", "threads")


@with_options(LOADING)
@user_errors()
def quantize_command(
    out: Annotated[Path, typer.Option("--out", help="A directory that does not exist yet.")],
    model: ModelArg = None,
    weights: Annotated[str, typer.Option("--weights", help="Weight format: int8, int4+ or int4.")] = "int4+",
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", help="A text like those the model is used for; weights errors by its activations."
        ),
    ] = None,
    calibration_tokens: Annotated[
        int, typer.Option("--calibration-tokens", help="Number of tokens of that text to use.")
    ] = 8192,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Write a quantized copy with less error than plain rounding, which is served as it is."""
    preset = check_preset(weights)
    text = None if calibration is None else read_text(calibration)
    loaded = LOADING.take(given)
    with Bars(counted=False) as bars:
        made = quantize_model(
            model,
            out,
            preset,
            adapters=loaded.adapters,
            calibration=text,
            drafter=loaded.drafter,
            calibration_tokens=calibration_tokens,
            threads=loaded.threads,
            on_stage=bars.part,
            on_message=say,
        )
    counts = {
        "taken as stored": made.exact,
        "with the codes of their training": made.trained,
        "by search": made.searched,
        "by search weighted by calibration": made.weighted,
    }
    matrices = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    write(f"{made.directory}: {made.nbytes / 1e6:,.1f} MB; matrices: {matrices}\n")
    say(made.drafter_note + ("" if made.drafter is None else f", copied to {made.drafter}"))
    if json_out:
        write_json({
            "directory": str(made.directory), "bytes": made.nbytes, "weights": preset, "exact": made.exact,
            "trained": made.trained, "searched": made.searched, "weighted": made.weighted,
            "drafter": None if made.drafter is None else str(made.drafter),
        })  # fmt: skip
