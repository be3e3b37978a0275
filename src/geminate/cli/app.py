"""The ``geminate`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from geminate.cli import bench as b
from geminate.cli import evaluate as e
from geminate.cli import generate as g
from geminate.cli import inspect as i
from geminate.cli import quantize as q
from geminate.cli import serve as s
from geminate.cli import train as t

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(g.generate)
app.command("chat")(g.chat)
app.command("info")(i.info)
app.command("verify")(i.verify_command)
app.command("eval")(e.evaluate_command)
app.command("quantize")(q.quantize_command)
app.command("serve")(s.command())
app.add_typer(b.app, name="bench")
app.add_typer(t.app, name="train")


def _version(wanted: bool) -> None:
    if wanted:
        from geminate import __version__

        typer.echo(f"geminate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and leave.")
    ] = False,
) -> None:
    """Gemma 4 with its MTP drafter on the CPU: the same output with speculation on or off, only faster."""


def main() -> None:
    """Entry point."""
    app()
