"""Gemma 4 with its MTP drafter on the machine at hand: the same tokens and logits with speculation on or off."""

from __future__ import annotations

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
