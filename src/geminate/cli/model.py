"""Loads the model of a command, with packing progress on stderr."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from geminate.cli.bars import Bars
from geminate.cli.console import say
from geminate.cli.flags import loading
from geminate.llm import LLM
from geminate.loading.options import LoadOptions
from geminate.weights.verification import VERIFYING

DOING = {"touching": "loading", VERIFYING: "verifying", "waiting": "waiting for another process"}


def load(
    options: LoadOptions,
    *,
    quiet: bool = False,
    on_message: Callable[[str], None] = say,
    on_progress: Callable[[], None] | None = None,
) -> LLM:
    """Load an LLM.

    Args:
        quiet: show nothing while loading. on_message: called with remarks and warnings.
        on_progress: called now and then; what it raises ends the loading.
    """
    bars = Bars(counted=False, shown=not quiet, on_line=on_message)

    def progress(name: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress()
        bars.part("weights", done, total, DOING.get(name, "packing"))

    flags = loading()
    with warnings.catch_warnings(record=True) as caught, bars, flags.flagged():
        warnings.simplefilter("always")
        llm = LLM(
            **vars(options),
            on_message=None if quiet else lambda text: on_message(flags.in_flags(text)),
            progress=progress,
        )
    for warning in caught:
        on_message(f"warning: {warning.message}")
    return llm
