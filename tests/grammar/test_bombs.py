"""Grammars whose automata would be too large are refused before they are compiled."""

from __future__ import annotations

import time
from typing import Any

import pytest

from geminate import LLM
from geminate.errors import ParameterError
from geminate.grammar.compiler import JsonSchema, Lark


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


def multiple(*values: float) -> dict[str, Any]:
    parts = [{"type": "integer", "multipleOf": value} for value in values]
    return parts[0] if len(parts) == 1 else {"allOf": parts}


@pytest.mark.parametrize("values", [(99999989,), (60_480_000,), (9973, 9967), (0.99999989,), (1e300,)])
def test_multiples_with_too_many_states(llm: LLM, values: tuple[float, ...]) -> None:
    began = time.process_time()
    with pytest.raises(ParameterError, match="multipleOf"):
        llm.grammars.compile(JsonSchema({"type": "object", "properties": {"n": multiple(*values)}}))
    assert time.process_time() - began < 1


@pytest.mark.parametrize("value", [1, 5, 100, 9973, 0.01, 2.5])
def test_ordinary_multiples_compile(llm: LLM, value: float) -> None:
    kind = "integer" if value == int(value) else "number"
    llm.grammars.compile(JsonSchema({"type": kind, "multipleOf": value}))


def test_long_intersections_are_refused(llm: LLM) -> None:
    parts = " & ".join(f"/(?s:.*[a-z ]{{{i}}}.*)/" for i in range(1, 61))
    with pytest.raises(ParameterError, match="59 intersections"):
        llm.grammars.compile(Lark(f"start: T\nT: {parts}"))
    llm.grammars.compile(Lark('start: T "&" "&amp;"\nT: /a+&b/ & /.*&b/'))
