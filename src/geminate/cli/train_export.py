"""``geminate train export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geminate.cli.console import user_errors, write
from geminate.tools.export import export_drafter


@user_errors()
def export(
    drafter: Annotated[str, typer.Argument(metavar="DRAFTER", help="The drafter's directory, GGUF file or hub id.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, NAME.gguf.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="The model that it drafts for, whose tokenizer the file gets.",
            show_default="the embedded pair",
        ),
    ] = None,
    kind: Annotated[str, typer.Option("--type", help="Type of the matrices: f32, f16, bf16, q8_0 or q4_0.")] = "f16",
) -> None:
    """Write a drafter as a GGUF file (gemma4-assistant), as llama.cpp and --drafter read it."""
    size = export_drafter(drafter, target, out, kind)
    write(f"{out}: {size / 1e6:,.1f} MB\n")
