"""``geminate pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geminate.cli.bars import Bars
from geminate.cli.console import say, user_errors, write, write_json
from geminate.cli.flags import JsonOpt, ModelArg, loading, options
from geminate.tools.pack import pack_model

LOADING = loading("adapter", "drafter", "weights")


@options(LOADING)
@user_errors()
def pack(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, such as model.geminate.")],
    model: ModelArg = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Write a model and its drafter into one file that every command takes and that needs the checkpoint no more.

    It holds weights, tokenizer, chat template, configurations, licence and origin, with a checksum for every 64 KiB.
    """
    loaded = LOADING.take(given)
    with Bars(counted=False) as bars, LOADING.flagged():
        made = pack_model(
            model,
            out,
            drafter=loaded.drafter,
            weights=loaded.weights,
            adapters=loaded.adapters,
            force=force,
            progress=lambda name, done, total: bars.part("packing", done, total),
            on_message=say,
        )
    say(made.drafter)
    parts = [f"{part} in {', '.join(counts)}" for part, counts in made.formats.items()]
    licence = f"licence: {made.licence}" if made.licence else "the checkpoint names no licence"
    write(f"{made.path}: {made.nbytes / 1e6:,.1f} MB; {'; '.join(parts)}; {licence}\n")
    if json_out:
        write_json({
            "path": str(made.path), "bytes": made.nbytes, "formats": made.formats, "licence": made.licence or None,
            "drafter": made.drafter,
        })  # fmt: skip
