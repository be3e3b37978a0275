"""Loads the model of a command, with packing progress on stderr."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from geminate.cli.console import Bars, say
from geminate.llm import LLM
from geminate.loading.options import LoadOptions


def load(options: LoadOptions, *, quiet: bool = False, on_message: Callable[[str], None] = say) -> LLM:
    """Load an LLM; remarks and warnings go to ``on_message``, with ``quiet`` nothing is shown while loading."""
    bars = Bars(counted=False, shown=not quiet)
    with warnings.catch_warnings(record=True) as caught, bars:
        warnings.simplefilter("always")
        llm = LLM(
            **vars(options),
            on_message=None if quiet else on_message,
            progress=lambda name, done, total: bars.part(
                "weights", done, total, "loading" if name == "touching" else "packing"
            ),
        )
    for warning in caught:
        on_message(f"warning: {warning.message}")
    return llm
