"""Keywords of JSON schemas: annotations are accepted, what excludes values is enforced or refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.errors import ParameterError
from geminate.grammar.compiler import GrammarCompiler, GrammarSpec, JsonSchema, Lark, Regex, ToolCalls
from geminate.grammar.disjoint import disjoint
from geminate.grammar.formats import FORMAT_REGEXES
from geminate.grammar.keywords import FORMATS, plain_schema
from support.tiny_tokenizer import embedded_tokenizer
from support.tool_calls import render

TOKENIZER = embedded_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER, vocab_size=TOKENIZER.vocab_size, eos_ids=(1, 106, 50))
INT, TEXT = {"type": "integer"}, {"type": "string"}


def fits(spec: GrammarSpec, text: str) -> bool:
    state = COMPILER.compile(spec).start()
    for token in TOKENIZER.encode(text, add_bos=False):
        if not state.allowed()[token]:
            return False
        state.advance(token)
    return bool(state.allowed()[1])


def both(schema: dict[str, Any]) -> list[tuple[GrammarSpec, Any]]:
    """The schema as a response format and as a property of a strict tool, each with how a value is written."""
    tool = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    if "$defs" in schema:
        tool["$defs"] = schema["$defs"]
    strict = ToolCalls(tools=[("f", tool)], required=True, strict=True)
    return [(JsonSchema(schema), json.dumps), (strict, lambda value: render("f", {"a": value}))]


SAY_NOTHING: list[tuple[dict[str, Any], Any]] = [
    *(({"type": "string", "format": name}, "x") for name in ("password", "binary", "byte", "path", "uri-reference")),
    *(({"type": "string", "format": name}, "x") for name in ("nanoid", "cuid", "ulid", "jwt", "base64", "e164", "")),
    *(({"type": kind, "format": name}, 5) for kind, name in (("integer", "int64"), ("number", "double"))),
    ({"type": "integer", "format": "date"}, 5),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": INT}, {"x": 1}),
    ({"type": "object", "propertyNames": {"description": "A name"}, "additionalProperties": INT}, {"x": 1}),
    ({"type": "object", "propertyNames": True, "additionalProperties": INT}, {"x": 1}),
    ({"type": "array", "items": INT, "uniqueItems": False}, [1, 1]),
    ({"type": "array", "items": INT, "uniqueItems": True, "maxItems": 1}, [1]),
    ({"type": "array", "items": INT, "minContains": 2}, [1]),
    ({"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}, "x"),
    ({"type": "string", "if": {"minLength": 3}}, "x"),
    ({"type": "string", "not": False}, "x"),
    ({"type": "object", "properties": {}, "dependentRequired": {}, "unevaluatedProperties": {}}, {}),
    ({"type": "string", "deprecated": True, "readOnly": True, "examples": [1], "x-order": 3, "title": "T"}, "x"),
    ({"type": "integer", "minimum": 5, "exclusiveMinimum": False}, 5),
    ({"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308}, 5),
    ({"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38}, 5),
]


@pytest.mark.parametrize("schema, value", SAY_NOTHING, ids=range(len(SAY_NOTHING)))
def test_what_says_nothing_is_accepted(schema: dict[str, Any], value: Any) -> None:
    for spec, write in both(schema):
        assert fits(spec, write(value))


ENFORCED: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    (
        {"type": "object", "propertyNames": {"enum": ["x", "y"]}, "additionalProperties": INT},
        [{}, {"x": 1}, {"x": 1, "y": 2}, {"y": 2}],
        [{"z": 1}, {"x": "s"}],
    ),
    ({"oneOf": [INT, TEXT]}, [1, "x"], [None]),
    ({"oneOf": [{"const": "a"}, {"enum": ["b", "c"]}]}, ["a", "c"], ["d"]),
    ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "exclusiveMinimum": 3}]}, [3, 4], ["x"]),
    (
        {
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
            "$defs": {
                name: {
                    "type": "object",
                    "properties": {"kind": {"type": "string", "const": name}, name: INT},
                    "required": ["kind", name],
                    "additionalProperties": False,
                }
                for name in "AB"
            },
        },
        [{"kind": "A", "A": 1}, {"kind": "B", "B": 1}],
        [{"kind": "A", "B": 1}],
    ),
    ({"type": "integer", "minimum": 5, "exclusiveMinimum": True}, [6], [5]),
    (
        {"type": "string", "format": "date"},
        ["2024-02-29", "1999-12-31"],
        ["2023-02-29", "2024-02-30", "2024-13-01", "x"],
    ),
    (
        {"type": "string", "format": "date-time"},
        ["2024-02-29T23:59:59Z", "2024-01-01T00:00:00.5+01:00"],
        ["2024-02-29"],
    ),
    ({"type": "string", "format": "time"}, ["23:59:59Z"], ["24:00:00Z"]),
    ({"type": "string", "format": "duration"}, ["P1D", "PT1H30M", "P2W", "P1Y2M3DT4H"], ["P", "1D", "PT"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ({"type": "string", "format": "ipv4"}, ["127.0.0.1"], ["256.0.0.1"]),
    ({"type": "string", "format": "ipv6"}, ["::1", "fe80::1:2", "1:2:3:4:5:6:7:8"], ["1:2", ":::"]),
    ({"type": "string", "format": "email"}, ["ann.b+c@example.org"], ["ann", "@x"]),
    ({"type": "string", "format": "hostname"}, ["a-b.example"], ["-a"]),
    ({"type": "string", "format": "uri"}, ["https://example.org/a?b=c#d"], ["example.org"]),
]


@pytest.mark.parametrize("schema, good, bad", ENFORCED, ids=range(len(ENFORCED)))
def test_what_is_enforced(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    for spec, write in both(schema):
        assert [value for value in good if not fits(spec, write(value))] == []
        assert [value for value in bad if fits(spec, write(value))] == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
    ({"oneOf": [INT, {"type": "number"}]}, "'oneOf'.* overlap"),
    ({"oneOf": [TEXT, {"type": "string", "maxLength": 3}]}, "'oneOf'.* overlap"),
    ({"contains": INT, "type": "array"}, "contains"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "number", "minimum": 1e20}, "bounds of a number are too large"),
    ({"type": "number", "multipleOf": 1e-14}, "decimal places"),
    ({"const": "a<|turn>b"}, "special token"),
    ({"enum": ["x", "<eos>"]}, "special token"),
    ({"type": "string", "pattern": r"^<\|turn>$"}, "special token"),
    ({"type": "object", "properties": {"<bos>": INT}}, "special token"),
]
MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"anyOf": 5}, "anyOf must be a list of schemas"),
    ({"anyOf": [5]}, r"anyOf\[0\]: a schema must be an object"),
    ({"type": "str"}, "unknown type 'str'"),
    ({"type": ["string", 5]}, "unknown type 5"),
    ({"type": "object", "properties": []}, "properties must be an object"),
    ({"type": "object", "required": "a"}, "required must be a list of strings"),
    ({"type": "array", "items": 5}, "items: a schema must be"),
    ({"type": "array", "minItems": "x"}, "minItems must be an integer from 0"),
    ({"type": "integer", "minimum": "x"}, "minimum must be a number"),
    ({"type": "integer", "multipleOf": 0}, "multipleOf must be above 0"),
    ({"type": "string", "pattern": 5}, "pattern must be a string"),
    ({"enum": 5}, "enum must be a list"),
    ({"$ref": 5}, "ref must be a string"),
    ({"const": 10**4999}, "too many digits"),
]


@pytest.mark.parametrize("schema, message", [*REFUSED, *MALFORMED], ids=range(len(REFUSED) + len(MALFORMED)))
def test_what_is_refused(schema: dict[str, Any], message: str) -> None:
    for spec, _ in both(schema):
        with pytest.raises(ParameterError, match=message) as caught:
            COMPILER.compile(spec)
        assert not re.search("coerce_one_of|Parser Error|regex for|set_int_max", str(caught.value))


@pytest.mark.parametrize("schema, message", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_schemas_of_tools_that_are_not_strict(schema: dict[str, Any], message: str) -> None:
    tool = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(ParameterError, match=message):
        COMPILER.compile(ToolCalls(tools=[("f", tool)]))


@pytest.mark.parametrize("pattern", [r"<\|turn>user", r"</s><eos>", r"a<bos>"])
def test_special_tokens_in_regular_expressions_and_grammars(pattern: str) -> None:
    text = json.dumps(pattern.replace("\\", ""))
    for spec in (Regex(pattern), Lark(f"start: {text}"), Lark(f"start: /{pattern.replace('/', chr(92) + '/')}/")):
        with pytest.raises(ParameterError, match="the text of a special token"):
            COMPILER.compile(spec)
    assert fits(Regex(r"</s>\|turn>"), "</s>|turn>")


def test_the_library_and_the_tools_have_the_same_formats() -> None:
    assert FORMAT_REGEXES.keys() == FORMATS
    for name in FORMATS:
        COMPILER.compile(JsonSchema({"type": "string", "format": name}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_formats_of_tools_are_valid(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["date", "date-time", "ipv4", "ipv6", "uuid", "email"]))
    value = data.draw(
        st.from_regex(FORMAT_REGEXES[name].replace("\\/", "/"), fullmatch=True, alphabet=st.characters(codec="ascii"))
    )
    jsonschema.validate(value, {"format": name}, format_checker=jsonschema.FormatChecker())


# Schemas as pydantic (datetime, date, UUID, SecretStr, bytes, Path, AnyUrl) and zod write them.
RECORDED: list[tuple[dict[str, Any], Any]] = [
    (
        {
            "properties": {
                "at": {"format": "date-time", "title": "At", "type": "string"},
                "day": {"anyOf": [{"format": "date", "type": "string"}, {"type": "null"}], "default": None},
                "id": {"format": "uuid", "title": "Id", "type": "string"},
                "secret": {"format": "password", "title": "Secret", "type": "string", "writeOnly": True},
                "raw": {"format": "binary", "title": "Raw", "type": "string"},
                "file": {"format": "path", "title": "File", "type": "string"},
                "n": {"title": "N", "type": "integer", "maximum": 9007199254740991, "minimum": -9007199254740991},
            },
            "required": ["at", "day", "id", "secret", "raw", "file", "n"],
            "title": "Everything",
            "type": "object",
            "additionalProperties": False,
        },
        {
            "at": "2024-01-01T00:00:00Z",
            "day": None,
            "id": "123e4567-e89b-12d3-a456-426614174000",
            "secret": "s",
            "raw": "b",
            "file": "/x",
            "n": 3,
        },
    ),
    (
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "tags": {
                    "type": "object",
                    "propertyNames": {"type": "string"},
                    "additionalProperties": {"type": "number"},
                },
                "id": {"type": "string", "format": "nanoid", "pattern": "^[a-zA-Z0-9_-]{21}$"},
                "kind": {
                    "oneOf": [
                        {"type": "object", "properties": {"t": {"type": "string", "const": t}}, "required": ["t"],
                         "additionalProperties": False} for t in ("a", "b")
                    ]
                },
            },
            "required": ["tags", "id", "kind"],
            "additionalProperties": False,
        },
        {"tags": {"x": 1.5}, "id": "V1StGXR8_Z5jdHi6B-myT", "kind": {"t": "b"}},
    ),
]  # fmt: skip


@pytest.mark.parametrize("schema, value", RECORDED, ids=range(len(RECORDED)))
def test_recorded_schemas(schema: dict[str, Any], value: Any) -> None:
    assert fits(JsonSchema(schema), json.dumps(value))
    assert fits(ToolCalls(tools=[("f", schema)], required=True, strict=True), render("f", value))


BASES = st.sampled_from(
    [
        {"type": "string", "maxLength": 3},
        {"type": "integer", "minimum": 0, "maximum": 9},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"], "additionalProperties": False},
        {"enum": ["x", 1, None]},
        {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    ]
)
REMARKS = st.fixed_dictionaries(
    {},
    optional={
        "title": st.text("abc", max_size=3),
        "default": st.none() | st.integers(),
        "format": st.sampled_from(["int64", "password", "cuid", "unknown"]),
        "uniqueItems": st.just(False),
        "propertyNames": st.sampled_from([True, {}, {"type": "string"}, {"title": "x"}]),
        "contentEncoding": st.just("base64"),
        "minContains": st.just(1),
        "if": st.just({"type": "string"}),
        "dependentRequired": st.just({}),
        "x-any": st.integers(),
        "examples": st.just([{"enum": 5}]),
    },
)


@settings(max_examples=80, deadline=None)
@given(BASES, REMARKS, REMARKS, st.booleans())
def test_remarks_change_nothing(base: dict[str, Any], inner: Any, outer: Any, wrapped: bool) -> None:
    """The values of a schema with remarks are those of the schema without: they come to one grammar."""

    def whole(base: dict[str, Any], outer: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": base, "maxItems": 1, **outer} if wrapped else {**base, **outer}

    def known(schema: Any) -> Any:
        return json.loads(re.sub(r', "x-any": -?\d+|"x-any": -?\d+, |"x-any": -?\d+', "", json.dumps(schema)))

    plain = plain_schema(whole(base, {}), "it", refuse=True)
    assert known(plain_schema(whole({**base, **inner}, outer), "it", refuse=True)) == plain
    jsonschema.Draft202012Validator.check_schema(plain)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(BASES | st.sampled_from([{"const": 1}, {"const": 2.0}, INT, TEXT, {}]), min_size=2, max_size=3), st.data()
)
def test_options_found_to_exclude_each_other_do(options: list[Any], data: st.DataObject) -> None:
    value = data.draw(st.sampled_from(["x", "", 1, 2, 2.0, None, True, [], [True], {}, {"a": None}]))
    if disjoint(options, {}):
        assert sum(jsonschema.Draft202012Validator(option).is_valid(value) for option in options) <= 1
