"""Numbers that the grammar library, which reads them as float64, would enforce as others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from geminate import LLM
from geminate.errors import ParameterError
from geminate.grammar.compiler import JsonSchema, ToolCalls


@pytest.fixture(scope="module")
def llm(packed_cache: object) -> Iterator[LLM]:
    with LLM(threads=1) as made:
        yield made


def admits(llm: LLM, schema: dict[str, Any], text: str) -> bool:
    state = llm.grammars.compile(JsonSchema(schema)).start()
    assert llm.tokenizer is not None
    for token in llm.tokenizer.encode(text, add_bos=False):
        if not state.allowed()[token]:
            return False
        state.advance(token)
    return bool(state.allowed()[list(llm.config.eos_token_ids)].any())


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        ({"minimum": 2**53 + 1}, 2**53 + 2, 2**53),
        ({"maximum": 2**53 + 1}, 2**53, 2**53 + 2),
        ({"maximum": 2**63 - 1}, 2**62, 2**63),
        ({"minimum": -(2**63) + 1}, -(2**62), -(2**63)),
        ({"exclusiveMaximum": 2**53 + 1}, 5, 2**53 + 1),
    ],
)
def test_bounds_beyond_float64_move_inwards(llm: LLM, schema: dict[str, Any], inside: int, outside: int) -> None:
    whole = {"type": "integer", **schema}
    assert admits(llm, whole, str(inside)) and not admits(llm, whole, str(outside))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"const": 123456789012345678901234567890}, "cannot be enforced exactly"),
        ({"enum": [1, 2**53 + 1]}, "cannot be enforced exactly"),
        ({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 1}, "Unsatisfiable"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, "cannot be enforced"),
        ({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}, "cannot be enforced"),
    ],
)
def test_what_cannot_be_enforced_is_refused(llm: LLM, schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        llm.grammars.compile(JsonSchema(schema))
    with pytest.raises(ParameterError):
        llm.grammars.compile(ToolCalls(tools=[("f", {"type": "object", "properties": {"a": schema}})]))


@pytest.mark.parametrize("schema", [{"exclusiveMinimum": 0}, {"exclusiveMinimum": 0, "maximum": 1}])
def test_ordinary_bounds_stay(llm: LLM, schema: dict[str, Any]) -> None:
    whole = {"type": "number", **schema}
    assert admits(llm, whole, "0.5") and not admits(llm, whole, "0") and not admits(llm, whole, "0.0")


@pytest.mark.parametrize("required", [[5], [None], [["a"]], [{}]])
def test_names_that_are_no_strings(llm: LLM, required: list[Any]) -> None:
    schema = {"type": "object", "required": required}
    with pytest.raises(ParameterError):
        llm.grammars.compile(ToolCalls(tools=[("f", schema)]))
    with pytest.raises(ParameterError):
        llm.grammars.compile(JsonSchema(schema))


def test_misuse_is_named(llm: LLM) -> None:
    with pytest.raises(ParameterError, match="a grammar is a JsonObject"):
        llm.grammars.compile({"type": "object"})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="params must be SamplingParams"):
        llm.generate("x", {"max_tokens": 3})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"llm\.grammars\.compile"):
        llm.generate("x", grammar="foo")  # type: ignore[arg-type]
