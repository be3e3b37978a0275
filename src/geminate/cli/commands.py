"""Groups of commands whose modules are imported when one of them is called: each takes a while to load."""

from __future__ import annotations

import importlib
from functools import cached_property
from typing import Any, ClassVar

import typer
import typer.core

from geminate.cli.console import user_errors

HELP = {"help_option_names": ["-h", "--help"]}


NO_GPU = "there is no GPU here, everything runs on the processor; leave it out"
FOREIGN = {  # options of other programs, where these have none of that name
    **dict.fromkeys(["-ngl", "--n-gpu-layers", "--gpu-layers"], NO_GPU),
    **dict.fromkeys(["-cnv", "--conversation", "-i", "--interactive"], "geminate chat talks to a model"),
    **dict.fromkeys(["-no-cnv", "--no-conversation"], "--raw continues a text without the chat template"),
    **dict.fromkeys(["-hf", "-hfr", "--hf-repo"], "geminate pull downloads a hub id, which is then MODEL"),
    **dict.fromkeys(["-md", "--model-draft"], "--drafter names the drafter"),
    **dict.fromkeys(["--draft", "--draft-n", "--draft-max"], "-k sets the draft length"),
    **dict.fromkeys(["-sys", "--system-prompt"], "--system has the system message"),
    **dict.fromkeys(["-e", "--escape"], "the shell can write line ends: $'one\\ntwo'"),
    **dict.fromkeys(["-c", "--ctx-size", "--max-model-len"], "--max-context bounds prompt and completion together"),
    **dict.fromkeys(["-np", "--parallel", "--max-num-seqs"], "--max-running bounds the requests that run at once"),
    "--gpu-memory-utilization": NO_GPU,
    "--check": "--verify-weights compares packed weights with their checksums",
    "--api-key": "--api-key-file names a file with keys: others can read a command line",
    "--served-model-name": "--model-id and --alias name the model in the API",
    "--repeat-penalty": "--repetition-penalty looks at the whole context",
    "--grammar-file": "--grammar takes a file too, in Lark instead of GBNF",
    "--format": "--json-schema has the schema of the answer",
    "--verbose": "figures are printed unless -q is given",
    "--log-disable": "-q leaves out remarks and figures",
}


class Hinting(typer.core.TyperCommand):
    """A command that knows how other programs call its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        own = {flag for parameter in self.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for arg in args[: args.index("--")] if "--" in args else args:
            flag = arg.partition("=")[0]
            if flag in FOREIGN and flag not in own:
                ctx.fail(f"there is no option {flag}: {FOREIGN[flag]}")
        return super().parse_args(ctx, args)


class Command(typer.core.TyperCommand):
    """A command that stands for a function until it is called; lists show its ``summary``.

    Args:
        function: its module and its name, as in ``geminate.cli.info:info``.
        summary: the first line of the function's docstring.
    """

    def __init__(self, name: str, function: str, summary: str) -> None:
        super().__init__(name, help=summary, rich_markup_mode=None)
        self.function = function

    @cached_property
    def loaded(self) -> Any:
        """The command itself."""
        module, _, function = self.function.partition(":")
        with user_errors():  # Ctrl-C while modules are loaded
            own = typer.Typer(add_completion=False, context_settings=HELP, rich_markup_mode=None,
                              pretty_exceptions_enable=False)  # fmt: skip
            own.command(self.name, cls=Hinting)(getattr(importlib.import_module(module), function))
            return typer.main.get_command(own)

    def make_context(self, *args: Any, **more: Any) -> Any:
        """See click: what is called, or completed, is the command itself."""
        return self.loaded.make_context(*args, **more)


class Commands(typer.core.TyperGroup):
    """A group of `Command`s.

    Attributes:
        table: name, function and summary of each, in the order of the help text.
    """

    table: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        others, self.commands = self.commands, {row[0]: Command(*row) for row in self.table}
        self.commands.update(others)
