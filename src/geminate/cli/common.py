"""What the commands share: loading with progress on stderr, errors without traceback, sampling options."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from geminate.errors import GeminateError
from geminate.llm import LLM
from geminate.params import SamplingParams
from geminate.runtime.drafter import RopePosition
from geminate.weights.presets import check_preset

err = Console(stderr=True, highlight=False)

ModelArg = Annotated[str | None, typer.Option("--model", "-m", help="Directory, GGUF or hub id; default: embedded.")]
DrafterOpt = Annotated[str, typer.Option("--drafter", help="auto, none, embedded, a directory, GGUF or hub id.")]
WeightsOpt = Annotated[
    str,
    typer.Option("--weights", help="bf16, int8, int4, int4+; auto: a stored grid as it is, else int8."),
]
ThreadsOpt = Annotated[int | None, typer.Option("--threads", help="Worker threads; default: physical cores.")]
SpeculationOpt = Annotated[str, typer.Option("--speculation", "-k", help="auto, off, ngram or a draft length 0..16.")]
RopeOpt = Annotated[str, typer.Option("--rope-position", help="The drafter's rotary position: P or P-1.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")]
Temperature = Annotated[float | None, typer.Option("--temperature", "-t", help="0 is greedy; default: the model's.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="0 is off; default: the model's.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Default: the model's.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Least share of the best token's probability.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same text; drawn and reported by default.")]
Prefault = Annotated[bool, typer.Option("--prefault", help="Touch all weights before the first answer.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Do not keep packed weights on disk.")]


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors a user can cause into one line and exit code 2; a closed stdout ends quietly."""
    try:
        yield
    except GeminateError as error:
        fail(str(error))
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    err.print(f"error: {' '.join(message.split())}", markup=False, soft_wrap=True)
    raise typer.Exit(2)


def say(message: str) -> None:
    """A remark on stderr."""
    err.print(message, style="dim", markup=False, soft_wrap=True)


def load(
    model: str | None,
    *,
    drafter: str = "auto",
    weights: str = "auto",
    threads: int | None = None,
    rope_position: str = "P",
    no_cache: bool = False,
    prefault: bool = False,
    quiet: bool = False,
    tell: Callable[[str], None] = say,
) -> LLM:
    """Load an LLM, packing progress on stderr; remarks go to ``tell``."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(),
        console=err, transient=True, disable=quiet or not err.is_terminal,
    )  # fmt: skip
    task = bar.add_task("packing", total=None, visible=False)
    with warnings.catch_warnings(record=True) as caught, bar:
        warnings.simplefilter("always")
        llm = LLM(
            model,
            drafter=None if drafter == "none" else drafter,
            weights=check_preset(weights),
            threads=threads,
            rope_position=cast(RopePosition, rope_position),
            use_cache=not no_cache,
            on_message=None if quiet else tell,
            prefault=prefault,
            progress=lambda name, done, total: bar.update(
                task,
                description="touching" if name == "touching" else "packing",
                completed=done,
                total=total,
                visible=True,
            ),
        )
    for warning in caught:
        tell(f"warning: {warning.message}")
    return llm


def sampling(
    *,
    max_tokens: int,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    stop: list[str] | None = None,
    ignore_eos: bool = False,
    logprobs: int | None = None,
) -> SamplingParams:
    """Command-line values as parameters."""
    return SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed,
        stop=tuple(stop or ()), ignore_eos=ignore_eos, logprobs=logprobs,
    )  # fmt: skip


def read_stdin() -> str:
    """All of standard input as UTF-8."""
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"standard input is not UTF-8 (byte {error.start}); convert it first, e.g. with iconv")


def read_text(path: Path) -> str:
    """A UTF-8 text file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 (byte {error.start})")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
