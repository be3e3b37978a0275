"""What is found wrong with a grammar without a model is what a model's compiler finds; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from geminate import LLM
from geminate.errors import ParameterError
from geminate.grammar.compiler import GrammarCompiler, JsonObject, JsonSchema, Lark, Regex, TextSpec
from geminate.grammar.precheck import check_spec


@pytest.fixture(scope="module")
def compiler(packed_cache: Path) -> GrammarCompiler:
    return LLM(threads=1).grammars


@pytest.mark.parametrize(
    "spec",
    [
        JsonObject(),
        JsonSchema({"type": "object", "properties": {"día": {"type": "string", "format": "date"}}}),
        JsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
        Regex("[a-z]{3} (hi|😀)"),
        Lark('start: "yes" | "no"'),
        Lark('start: <|turn> "user" <[100]>'),
        Lark('start: %json {"type": "integer"}'),
    ],
)
def test_what_a_model_follows_is_accepted(spec: TextSpec, compiler: GrammarCompiler) -> None:
    check_spec(spec)
    compiler.compile(spec)


@pytest.mark.parametrize(
    "spec",
    [
        Regex("("),
        Regex("(?=a)b"),
        Lark('start: "a" | nothing'),
        Lark("begin: /a/"),
        Lark('root ::= "a"'),
        JsonSchema({"type": "nope"}),
        JsonSchema({"type": "string", "pattern": "("}),
        JsonSchema({"$ref": "#"}),
    ],
)
def test_what_no_model_follows_is_refused_in_the_same_words(spec: TextSpec, compiler: GrammarCompiler) -> None:
    with pytest.raises(ParameterError) as before:
        check_spec(spec)
    with pytest.raises(ParameterError) as after:
        compiler.compile(spec)
    assert str(before.value) == str(after.value)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(ParameterError, match="and the limit is 131,072"):
        check_spec(JsonSchema({"enum": ["x" * 140_000]}))
