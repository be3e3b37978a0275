"""The ``geminate`` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
import typer.core

from geminate.backends.select import report_bus_errors
from geminate.cli import serve, train_drafter
from geminate.cli.bench_decode import decode
from geminate.cli.bench_step import step
from geminate.cli.chat import chat
from geminate.cli.console import last_errors
from geminate.cli.demo import demo
from geminate.cli.evaluate import evaluate_command
from geminate.cli.flags import HELP
from geminate.cli.generate import generate
from geminate.cli.info import info
from geminate.cli.quantize import quantize_command
from geminate.cli.verify import verify_command
from geminate.errors import SHORTENED


class App(typer.Typer):
    """Typer's, without a traceback where its own output cannot be written."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        if sys.stdout is None:  # closed by the shell (>&-)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        with last_errors():
            return super().__call__(*args, **kwargs)


ELSEWHERE = {  # commands of other programs
    "run": "geminate chat [MODEL] talks to a model, geminate generate [MODEL] PROMPT answers once",
    "help": "geminate -h lists the commands, geminate COMMAND -h the options of one",
    "version": "geminate --version shows it",
    "pull": "a hub id is downloaded when it is first named, such as geminate chat google/gemma-4-E2B-it",
    "list": "geminate info MODEL describes a model",
}


class Commands(typer.core.TyperGroup):
    """The commands, and a hint for those of other programs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click."""
        if args and args[0] in ELSEWHERE and args[0] not in self.commands:
            ctx.fail(f"there is no command {args[0]}: {ELSEWHERE[args[0]]}")
        return super().resolve_command(ctx, args)


app = App(
    cls=Commands,
    help="Gemma 4 with its MTP drafter on the CPU: the same output with speculation on or off, only faster.",
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate)
app.command("chat")(chat)
app.command("demo")(demo)
app.command("info")(info)
app.command("verify")(verify_command)
app.command("eval")(evaluate_command)
app.command("quantize")(quantize_command)
app.command("serve")(serve.command())

bench = typer.Typer(
    help="Measure this machine: pass times of real shapes, decoding speed of a pair.",
    no_args_is_help=True,
    context_settings=HELP,
    rich_markup_mode=None,
)
bench.command("step")(step)
bench.command("decode")(decode)
app.add_typer(bench, name="bench")
app.add_typer(train_drafter.app, name="train")


def _version(wanted: bool) -> None:
    if wanted:
        from geminate import __version__

        typer.echo(f"geminate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Gemma 4 with its MTP drafter on the CPU: the same output with speculation on or off, only faster."""
    report_bus_errors(f"error: {SHORTENED}\n")
