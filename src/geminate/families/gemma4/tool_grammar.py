"""Turns the JSON schemas of tools into a Lark grammar of Gemma 4's call syntax.

A call is ``<|tool_call>call:NAME{key:<|"|>str<|"|>,n:1}<tool_call|>``: keys without quotes, strings between
``<|"|>`` tokens and without escapes, the rest as JSON without white space. Properties appear in the order of their
declaration, ``required`` ones always, and undeclared ones only if none are declared.

A string that no keyword restricts may contain the text ``<|"|>``: the token closes a string only where ``,``, ``}``
or ``]`` follows, as in `geminate.families.gemma4.tool_reader`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from geminate.errors import ParameterError
from geminate.grammar.formats import FORMAT_REGEXES
from geminate.grammar.json_schema import has_finite_value, resolve, schema_text
from geminate.grammar.numbers import DIGITS, EXPONENT_DIGITS, FRACTION_DIGITS
from geminate.grammar.pattern import whole_text_terminal
from geminate.grammar.token_range import token_range
from geminate.text.call_tokens import CallTokens

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.$-]*")
_TYPES = ("string", "number", "integer", "boolean", "null", "object", "array")
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Keywords that restrict values and cannot be expressed in this grammar; a keyword in neither table is an annotation.
_NEVER = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
    "unevaluatedItems", "patternProperties", "propertyNames", "contains", "minContains", "maxContains",
    "uniqueItems", "additionalItems", "$dynamicRef",
)  # fmt: skip
_BY_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": _NUMERIC,
    "integer": _NUMERIC,
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
}


def calls_lark(
    tools: Sequence[tuple[str, Mapping[str, Any] | None]],
    tokens: CallTokens,
    *,
    required: bool,
    parallel: bool,
    strict: bool | Collection[str],
    ends: Sequence[int],
    answer: bool = False,
) -> str:
    """The grammar of a completion that may (with ``required``: must) call tools; see `ToolCalls`.

    Args:
        ends: end-of-sequence tokens, which free text cannot contain.
        answer: whether a completion without calls is what the grammar named ``answer`` allows.

    Raises:
        ParameterError: no tools, invalid or duplicate names, or schemas that cannot be enforced.
    """
    if not tools:
        raise ParameterError("tools is empty; at least one tool is required")
    writer = _Writer(tokens.quote)
    calls: list[str] = []
    for name, parameters in tools:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ParameterError(f"a tool's name must be 1 to 128 letters, digits, '_', '-' or '.', not {name!r}")
        severe = strict if isinstance(strict, bool) else name in strict
        try:
            arguments = writer.arguments(parameters, f"tool {name!r}", severe)
        except RecursionError as error:
            raise ParameterError(f"tool {name!r}: the schema is nested too deeply") from error
        calls.append(f"{_text(f'call:{name}')} {arguments}")
    if len({name for name, _ in tools}) != len(tools):
        raise ParameterError("two tools have the same name")
    call = f"<[{tokens.opened}]> ({' | '.join(calls)}) <[{tokens.closed}]>"
    several = "call+" if parallel else "call"
    if required:
        start = several
    elif answer:
        start = f"{several} | @answer"
    else:
        free = token_range([*ends, tokens.opened, tokens.closed], but=True)
        start = f"{free}* {'call*' if parallel else 'call?'}"
    return "\n".join([f"start: {start}", f"call: {call}", *writer.lines()]) + "\n"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Writer:
    """Collects grammar rules; rules with equal bodies are shared."""

    def __init__(self, quote: int) -> None:
        self._quote = f"<[{quote}]>"
        self._rules: dict[str, str] = {}  # body -> name
        self._references: dict[tuple[int, str], str] = {}
        self._bodies: dict[str, str] = {}  # rules of references: name -> body
        self._root: object = {}
        self._tool = 0
        self._strict = False

    def lines(self) -> list[str]:
        """All collected rules, then the generic ones."""
        quote = self._quote
        return [
            *(f"{name}: {body}" for name, body in self._bodies.items()),
            *(f"{name}: {body}" for body, name in self._rules.items()),
            'value: string | NUMBER | "true" | "false" | "null" | object | list',
            f"string: {quote} TEXT? ({quote} MORE?)* {quote}",
            'object: "{" (pair ("," pair)*)? "}"',
            'pair: KEY ":" value',
            'list: "[" (value ("," value)*)? "]"',
            "TEXT: /(?s:.+)/",
            "MORE: /[ \\t\\r\\n]*[^ \\t\\r\\n,}\\]](?s:.*)/",
            "KEY: /[A-Za-z_][A-Za-z0-9_]*/",
            f"INTEGER: /-?(0|[1-9][0-9]{{0,{DIGITS - 1}}})/",
            f"NUMBER: /-?(0|[1-9][0-9]{{0,{DIGITS - 1}}})(\\.[0-9]{{1,{FRACTION_DIGITS}}})?"
            f"([eE]([+]?[0-9]{{1,{EXPONENT_DIGITS}}}|-[0-9]{{1,{EXPONENT_DIGITS + 1}}}))?/",
        ]

    def arguments(self, schema: Mapping[str, Any] | None, tool: str, strict: bool) -> str:
        """The grammar of one tool's arguments, including the braces."""
        if schema is None or _declares_none(schema):
            return '"{}"'
        self._root = json.loads(schema_text(schema))
        self._strict = strict
        self._tool += 1
        if not has_finite_value(self._root):  # type: ignore[arg-type]
            raise ParameterError(
                f"{tool}: no finite arguments satisfy the schema: it requires itself, or something that is false"
            )
        at = self._root
        for _ in range(64):
            if not (isinstance(at, Mapping) and "$ref" in at):
                break
            at = resolve(self._root, at["$ref"])
        if not isinstance(at, Mapping) or at.get("type", "object") != "object":
            raise ParameterError(f"{tool}: the arguments' schema must be of type object")
        self._refuse_unsupported(at, f"{tool}, parameters", ("$ref", "type", *_BY_TYPE["object"]))
        return self._object(at, f"{tool}, parameters")

    def _lacks(self, path: str, what: str) -> None:
        """Report something the grammar cannot enforce: an error if strict, otherwise left to the model."""
        if self._strict:
            raise ParameterError(f"{path}: {what} cannot be enforced in a tool call; remove it, or set strict to false")

    def _refuse_unsupported(self, schema: Mapping[str, Any], path: str, known: Sequence[str]) -> None:
        every = {*_NEVER, "$ref", "anyOf", "oneOf", "allOf", "enum", "const", *sum(_BY_TYPE.values(), ())}
        for keyword in schema:
            if keyword in every and keyword not in known and (keyword != "allOf" or schema[keyword] != []):
                self._lacks(path, f"{keyword!r}")

    def _rule(self, body: str) -> str:
        return self._rules.setdefault(body, f"r{len(self._rules)}")

    def _value(self, schema: object, path: str) -> str:
        if schema is False:
            raise ParameterError(f"{path}: the schema is false, so no value satisfies it")
        if not isinstance(schema, Mapping):
            return "value"
        if "$ref" in schema:
            self._refuse_unsupported(schema, path, ("$ref",))
            return self._reference(str(schema["$ref"]), path)
        kinds = schema.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        unknown = [kind for kind in kinds if kind not in _TYPES]
        if unknown:
            raise ParameterError(f"{path}: unknown type {unknown[0]!r}")
        if "const" in schema or "enum" in schema:
            self._refuse_unsupported(schema, path, ("const", "enum"))
            return self._literals(schema, kinds, path)
        for keyword in ("anyOf", "oneOf", "allOf"):
            options = schema.get(keyword)
            if isinstance(options, list) and options:
                if kinds and not all(_within(option, kinds) for option in options):
                    self._lacks(path, f"{keyword!r} beside 'type'")
                    continue
                self._refuse_unsupported(schema, path, (keyword,))
                if keyword == "oneOf":  # options that exclude each other have become an anyOf
                    self._lacks(path, "'oneOf' with options that may overlap")
                if keyword == "allOf" and len(options) > 1:
                    self._lacks(path, "'allOf' of several schemas")
                    return "value"
                return self._any([self._value(o, f"{path}.{keyword}[{i}]") for i, o in enumerate(options)])
        if not kinds:
            kinds = [kind for kind in ("object", "array") if any(k in schema for k in _BY_TYPE[kind])][:1]
            if not kinds:
                self._refuse_unsupported(schema, path, ())
                return "value"
        known = [k for kind in kinds for k in _BY_TYPE.get(kind, ())]
        self._refuse_unsupported(schema, path, [*known, "anyOf", "oneOf", "allOf"])  # checked above
        return self._any([self._typed(kind, schema, path) for kind in dict.fromkeys(kinds)])

    def _any(self, options: list[str]) -> str:
        options = list(dict.fromkeys(options))
        return options[0] if len(options) == 1 else self._rule(" | ".join(options))

    def _reference(self, reference: str, path: str) -> str:
        key = self._tool, reference
        if key not in self._references:
            name = self._references[key] = f"ref{len(self._references)}"
            self._bodies[name] = "value"  # placeholder while the target may refer to itself
            self._bodies[name] = self._value(resolve(self._root, reference), f"{path} -> {reference}")
        return self._references[key]

    def _literals(self, schema: Mapping[str, Any], kinds: list[str], path: str) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list):
            raise ParameterError(f"{path}: enum must be a list")
        if "const" in schema and "enum" in schema:
            values = [value for value in values if value in schema["enum"]]
        fitting = [value for value in values if not kinds or any(_is(value, kind) for kind in kinds)]
        if not fitting:
            raise ParameterError(f"{path}: no value fits the enum")
        return self._any([self._literal(value) for value in fitting])

    def _literal(self, value: object) -> str:
        if isinstance(value, str):
            return f"{self._quote} {_text(value)} {self._quote}" if value else f"{self._quote} {self._quote}"
        if isinstance(value, list):
            inside = ' "," '.join(self._literal(item) for item in value)
            return f'"[" {inside} "]"'
        if isinstance(value, dict):
            inside = ' "," '.join(f"{self._key(k)} {self._literal(v)}" for k, v in value.items())
            return f'"{{" {inside} "}}"'
        return _text(json.dumps(value))

    def _key(self, key: str) -> str:
        """A key and its colon; ambiguous keys are quoted like strings."""
        if _BARE_KEY.fullmatch(key):
            return _text(f"{key}:")
        return f'{self._literal(key)} ":"'

    def _typed(self, kind: str, schema: Mapping[str, Any], path: str) -> str:
        match kind:
            case "string":
                return self._string(schema, path)
            case "number" | "integer":
                bounds = {key: schema[key] for key in _NUMERIC if key in schema}
                if bounds:
                    return self._rule(f"%json {json.dumps({'type': kind, **bounds})}")
                return "INTEGER" if kind == "integer" else "NUMBER"
            case "boolean":
                return self._rule('"true" | "false"')
            case "null":
                return '"null"'
            case "array":
                return self._array(schema, path)
            case _:
                return self._object(schema, path)

    def _string(self, schema: Mapping[str, Any], path: str) -> str:
        parts: list[str] = []
        if "format" in schema:
            parts.append(f"/{FORMAT_REGEXES[schema['format']]}/")
        least, most = _count(schema, "minLength", path), _count(schema, "maxLength", path)
        if most is not None and most < (least or 0):
            raise ParameterError(f"{path}: maxLength is less than minLength")
        if least or most is not None:
            parts.append(f"/(?s:.{{{least or 0},{'' if most is None else most}}})/")
        if "pattern" in schema:
            pattern = whole_text_terminal(str(schema["pattern"]))
            if pattern is None:
                self._lacks(path, f"the pattern {schema['pattern']!r}")
            else:
                parts.append(pattern)
        if not parts:
            return "string"
        terminal = self._rules.setdefault(" & ".join(parts), f"T{len(self._rules)}")
        return f"{self._quote} {terminal} {self._quote}"

    def _array(self, schema: Mapping[str, Any], path: str) -> str:
        if "prefixItems" in schema:
            self._lacks(path, "'prefixItems'")
            return "list"
        least, most = _count(schema, "minItems", path) or 0, _count(schema, "maxItems", path)
        if most is not None and most < least:
            raise ParameterError(f"{path}: maxItems is less than minItems")
        if most == 0 or schema.get("items") is False:
            return '"[]"' if not least else self._value(False, path)
        item = self._rule(self._value(schema.get("items", True), f"{path}.items"))
        return self._rule(f'"[" {_repeated(item, least, most)} "]"')

    def _object(self, schema: Mapping[str, Any], path: str) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise ParameterError(f"{path}: properties must be an object and required a list")
        if not all(isinstance(name, str) for name in required):
            raise ParameterError(f"{path}: required must be a list of strings")
        more = schema.get("additionalProperties", True)
        declared = {**properties, **{name: more for name in required if name not in properties}}
        least, most = _count(schema, "minProperties", path) or 0, _count(schema, "maxProperties", path)
        if not declared:
            if more is False:
                return '"{}"'
            pair = self._rule(f'KEY ":" {self._value(more, f"{path}.additionalProperties")}')
            return self._rule(f'"{{" {_repeated(pair, least, most)} "}}"')
        if least > len(required) or (most is not None and most < len(declared)):
            self._lacks(path, "'minProperties' or 'maxProperties' beside properties")
        pairs = [
            (f"{self._key(name)} {self._value(inner, f'{path}.{name}')}", name in required)
            for name, inner in declared.items()
        ]
        # after: what may follow a pair; first: what may follow the opening brace.
        after = first = ""
        for pair, needed in reversed(pairs):
            begun = f"{pair} {after}".strip()
            first = begun if needed else f"({self._rule(begun)} | {first})" if first else f"({begun})?"
            first = self._rule(first)
            after = self._rule(f'"," {pair} {after}' if needed else f'("," {pair})? {after}')
        return f'"{{" {first} "}}"'


def _declares_none(schema: Mapping[str, Any]) -> bool:
    """Whether a tool has no arguments: clients write an object with properties of which there are none."""
    more = ("additionalProperties", "patternProperties", "anyOf", "oneOf", "allOf", "$ref", "required")
    closed = isinstance(schema, Mapping) and schema.get("properties") == {}
    return closed and not any(schema.get(key) for key in more)


def _repeated(item: str, least: int, most: int | None) -> str:
    """``item`` repeated ``least`` to ``most`` times, separated by commas."""
    if most == 0:
        return ""
    if most == 1:
        return item if least else f"({item})?"
    rest = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
    return f"{item} {rest}" if least else f"({item} {rest})?"


def _count(schema: Mapping[str, Any], key: str, path: str) -> int | None:
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ParameterError(f"{path}: {key} must be an integer from 0, not {value!r}")
    return value


def _is(value: object, kind: str) -> bool:
    if kind in ("integer", "number"):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return not isinstance(value, bool) and (whole or (kind == "number" and isinstance(value, float)))
    known = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}
    return isinstance(value, known[kind])


def _within(option: object, kinds: list[str]) -> bool:
    """Whether a schema itself restricts its values to these types."""
    kind = option.get("type") if isinstance(option, Mapping) else None
    return isinstance(kind, str) and kind in kinds
