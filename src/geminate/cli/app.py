"""The ``geminate`` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from geminate.cli.commands import HELP, Commands
from geminate.cli.console import fail, last_errors, user_errors
from geminate.errors import SHORTENED
from geminate.system.processor import why_no_numpy
from geminate.system.streams import write_utf8


class App(typer.Typer):
    """Typer's, without a traceback where its own output cannot be written."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        if sys.stdout is None:  # closed by the shell (>&-)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        write_utf8()
        with last_errors():
            return super().__call__(*args, **kwargs)


ELSEWHERE = {  # commands of other programs
    "run": "geminate chat [MODEL] talks to a model, geminate generate [MODEL] PROMPT answers once",
    "help": "geminate -h lists the commands, geminate COMMAND -h the options of one",
    "version": "geminate --version shows it",
    "ls": "geminate list shows the models that are here",
    "remove": "geminate rm NAME removes a model",
    "download": "geminate pull NAME downloads a model and its drafter",
}


class Root(Commands):
    """All commands, and a hint for those of other programs."""

    table = (
        (
            "generate",
            "geminate.cli.generate:generate",
            "Answer a prompt, streamed to stdout; figures go to stderr.",
        ),
        ("chat", "geminate.cli.chat:chat", "Talk to a model; /help lists the commands."),
        (
            "demo",
            "geminate.cli.demo:demo",
            "Plain and speculative decoding side by side at a real model's size, with random weights: nothing to "
            "download.",
        ),
        (
            "pull",
            "geminate.cli.pull:pull_command",
            "Download a model and its drafter into the hub cache; a download that was cut continues.",
        ),
        (
            "list",
            "geminate.cli.list_models:list_command",
            "Models and drafters that are on this machine, or the names that `geminate pull` knows.",
        ),
        (
            "show",
            "geminate.cli.show:show",
            "What a model is, what it takes on disk and in memory, and how fast it should be here; nothing is loaded.",
        ),
        (
            "cache",
            "geminate.cli.cache:cache",
            "Packed weights on this disk, which model each belongs to, and the limit; pulled models are listed by "
            "`list`.",
        ),
        (
            "rm",
            "geminate.cli.rm:rm",
            "Remove pulled models from the hub cache, with drafters that no other model here uses.",
        ),
        (
            "info",
            "geminate.cli.info:info",
            "Shape, parameters and bytes of a model, the drafter found for it, its formats, and how fast it should be "
            "here.",
        ),
        (
            "verify",
            "geminate.cli.verify:verify_command",
            "Prove on this machine that tokens and logits do not depend on speculation, threads, chunking or batch.",
        ),
        (
            "eval",
            "geminate.cli.evaluate:evaluate_command",
            "Perplexity, KL divergence and top-1 agreement of weight or KV formats, teacher-forced on a text.",
        ),
        (
            "quantize",
            "geminate.cli.quantize:quantize_command",
            "Write a quantized copy with less error than plain rounding, which is served as it is.",
        ),
        (
            "pack",
            "geminate.cli.pack:pack",
            "Write a model and its drafter into one file that every command takes and that needs the checkpoint no "
            "more.",
        ),
        ("serve", "geminate.cli.serve:serve", "Serve a model over OpenAI's API, with a page at /."),
        (
            "doctor",
            "geminate.cli.doctor:doctor",
            "What this machine is, which kernels and threads run on it, where caches lie, what is missing.",
        ),
        (
            "plan",
            "geminate.cli.plan:plan",
            "Which machines carry a load, how fast, and at what cost.",
        ),
    )

    def make_context(self, *args: Any, **more: Any) -> Any:
        """See click; a closed pipe ends help texts as it ends commands."""
        with user_errors():
            return super().make_context(*args, **more)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click."""
        if args and args[0] in ELSEWHERE and args[0] not in self.commands:
            ctx.fail(f"there is no command {args[0]}: {ELSEWHERE[args[0]]}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        with user_errors():
            return super().invoke(ctx)


class Bench(Commands):
    """What measures this machine."""

    table = (
        (
            "step",
            "geminate.cli.bench_step:step",
            "Time passes over M rows of a real shape with random weights, beside the machine's ceilings.",
        ),
        (
            "decode",
            "geminate.cli.bench_decode:decode",
            "Tokens per second plain, with fixed draft lengths and with auto, alternating on the same prompts.",
        ),
    )


class Fleet(Commands):
    """What runs several engines."""

    table = (
        (
            "up",
            "geminate.cli.fleet:up",
            "Serve with several replicas on Ray: routing by prefix, streams that outlive a dead replica.",
        ),
    )


class Train(Commands):
    """What trains."""

    table = (
        (
            "drafter",
            "geminate.cli.train_drafter:drafter",
            "Train a drafter for the weights that are served; written only if it beats the old one (else exit code 3).",
        ),
        (
            "export",
            "geminate.cli.train_export:export",
            "Write a drafter as a GGUF file (gemma4-assistant), as llama.cpp and --drafter read it.",
        ),
    )


class Audit(Commands):
    """What reads audit logs."""

    table = (
        (
            "verify",
            "geminate.cli.audit:verify_command",
            "Follow an audit log's chain and name every line that was edited, cut, moved, duplicated or inserted.",
        ),
        (
            "replay",
            "geminate.cli.audit_replay:replay_command",
            "Compute an audit log's answers again and name the line and token that differ (exit code 1).",
        ),
    )


app = App(
    cls=Root,
    help="Gemma 4 with its MTP drafter on the CPU: the same output with speculation on or off, only faster.",
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, group, summary in (
    ("bench", Bench, "Measure this machine: pass times of real shapes, decoding speed of a pair."),
    ("fleet", Fleet, "Several engines behind one address."),
    ("train", Train, "Train the drafter of a target."),
    ("audit", Audit, "Verify and replay the audit log of `geminate serve` and `generate`."),
):
    app.add_typer(
        typer.Typer(help=summary, cls=group, no_args_is_help=True, context_settings=HELP, rich_markup_mode=None),
        name=name,
    )


def _version(wanted: bool) -> None:
    if wanted:
        from geminate import __version__

        typer.echo(f"geminate {__version__}")
        raise typer.Exit


def _load_numpy() -> None:
    """NumPy asks more of a processor than the kernels do."""
    if (why := why_no_numpy()) is not None:
        fail(why)
    try:
        import numpy  # noqa: F401
    except (ImportError, RuntimeError) as error:
        cause = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        fail(f"NumPy cannot be loaded ({cause}); reinstall it for this machine, see docs/install.md")


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Gemma 4 with its MTP drafter on the CPU: the same output with speculation on or off, only faster."""
    _load_numpy()
    from geminate.backends.select import report_bus_errors

    report_bus_errors(f"error: {SHORTENED}\n")
