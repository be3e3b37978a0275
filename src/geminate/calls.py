"""What the calls of an LLM share: prompts as a list, sampling parameters given as keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from geminate.errors import ArgumentTypeError, ParameterError
from geminate.params import SamplingParams, token_ids

Prompt = str | Sequence[int]
OnPrompt = Callable[[int, int], None]
"""Called with (tokens read, tokens) of a prompt."""
_KEYWORDS = tuple(f.name for f in fields(SamplingParams))


def sampling(params: SamplingParams | None, given: Mapping[str, Any]) -> SamplingParams | None:
    """Sampling parameters from an object and from keywords, which go before it.

    Raises:
        ParameterError: no `SamplingParams`, or a value outside its range. ArgumentTypeError: an unknown keyword.
    """
    if params is not None and not isinstance(params, SamplingParams):
        raise ParameterError(f"params must be SamplingParams, not {type(params).__name__}")
    for name in given:
        if name not in _KEYWORDS:
            raise ArgumentTypeError(f"unknown argument {name!r}; the sampling arguments are {', '.join(_KEYWORDS)}")
    return replace(params or SamplingParams(), **given) if given else params


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One or several prompts as a list of them.

    Raises:
        ArgumentTypeError: bytes. ParameterError: neither text nor token ids.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes | bytearray | memoryview | Mapping) or not isinstance(prompts, Iterable):
        return [token_ids(prompts)]  # refused there
    items = list(prompts)
    if items and all(isinstance(item, (int, np.integer)) for item in items):
        return [token_ids(items)]
    return items  # type: ignore[return-value]
