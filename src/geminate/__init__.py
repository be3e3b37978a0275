"""Gemma 4 with its MTP drafter on the machine at hand: the same tokens and logits with speculation on or off."""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from geminate.engine.stats import Stats
    from geminate.errors import GeminateError
    from geminate.llm import LLM
    from geminate.output import Delta, Output
    from geminate.params import SamplingParams
    from geminate.session import ChatSession

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "ChatSession",
    "Delta",
    "GeminateError",
    "Output",
    "SamplingParams",
    "Stats",
    "__version__",
]
_MODULES = {
    "Stats": "geminate.engine.stats", "GeminateError": "geminate.errors", "LLM": "geminate.llm",
    "Delta": "geminate.output", "Output": "geminate.output", "SamplingParams": "geminate.params",
    "ChatSession": "geminate.session",
}  # fmt: skip


def __getattr__(name: str) -> typing.Any:
    # Loaded where they are used: the command line can then be interrupted from its first moment.
    if name not in _MODULES:
        raise AttributeError(f"module 'geminate' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
