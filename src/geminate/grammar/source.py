"""Writes a `GrammarSpec` as the text that `geminate.grammar.matching` compiles: a JSON object of grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from geminate.errors import ParameterError
from geminate.grammar.formats import FORMAT_REGEXES
from geminate.grammar.json_schema import check_multiples, has_finite_value, tighten_numbers
from geminate.grammar.keywords import plain_schema, subschemas
from geminate.grammar.reasoning import reasoning_lark
from geminate.grammar.special_texts import SpecialTexts
from geminate.grammar.specs import (
    LABELS,
    GrammarSpec,
    JsonObject,
    JsonSchema,
    Lark,
    Reasoning,
    Regex,
    TextSpec,
    ToolCalls,
)
from geminate.text.tokenizer import Tokenizer

_MAX_TEXT = 131_072  # characters per grammar
_MAX_RULES = 1_000  # rules per Lark grammar; compile time is quadratic in a chain of rules
_MAX_INTERSECTIONS = 16  # in a Lark grammar: states multiply
QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][^:\n\"/]*:", re.MULTILINE)
_GBNF = re.compile(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", re.MULTILINE)
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}


class SourceWriter:
    """Writes the grammars of one model.

    Args:
        tokenizer: the model's tokenizer. eos_ids: end-of-sequence tokens.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int]) -> None:
        self._tokenizer, self._eos_ids = tokenizer, eos_ids
        self._special = SpecialTexts(tokenizer)

    def write(self, spec: GrammarSpec, reasoning: Reasoning) -> str:
        """The grammar in llguidance's input format, with what `geminate.grammar.numbers` has to know.

        Args:
            reasoning: see `Reasoning`.

        Raises:
            ParameterError: a malformed grammar, one too large, or one that cannot be enforced; or a model without the
                tokens it needs.
        """
        if not self._eos_ids:
            raise ParameterError("this model has no token that ends a sequence, so a grammar could never finish")
        marks: dict[str, Any] = {"text": False, "calls": []}
        more: list[dict[str, Any]] = []
        if isinstance(spec, ToolCalls):
            body = {"lark_grammar": self._calls(spec)}
            tokens = self._tokenizer.call_tokens()
            marks["calls"] = [tokens.opened, tokens.closed, tokens.quote]
            if spec.answer is not None and not spec.required:
                more = [{"name": "answer", **text_grammar(spec.answer, self._special)}]
                marks["text"] = isinstance(spec.answer, JsonObject | JsonSchema)
        else:
            body = text_grammar(spec, self._special)
            marks["text"] = isinstance(spec, JsonObject | JsonSchema)
        grammars = [body, *more]
        if reasoning:
            grammars = [self._reasoning(marks, begun=reasoning == "open"), {"name": "body", **body}, *more]
        whole: dict[str, Any] = {"grammars": grammars}
        if marks["text"] or marks["calls"]:
            # 0.19999999999999999999 is below 0.2 as text, and equal to it as float64; with 15 digits that cannot be.
            marks["significant"] = 15 if "exclusiveM" in json.dumps(grammars) else 17
            whole["numbers"] = marks
        return written(whole, LABELS[type(spec)])

    def _calls(self, spec: ToolCalls) -> str:
        tokens = self._tokenizer.call_tokens()
        syntax = self._tokenizer.dialect.tools
        assert syntax is not None
        tools: list[tuple[str, Mapping[str, Any] | None]] = []
        for name, given in spec.tools:
            if given is None:
                tools.append((name, None))
                continue
            label = f"tool {name!r}, parameters"
            plain = plain_schema(given, label, refuse=False)  # the syntax knows what it cannot enforce
            tighten_numbers(plain)
            self._special.check_schema(plain, label)
            tools.append((name, plain))
        return syntax.grammar(
            tools,
            tokens,
            required=spec.required,
            parallel=spec.parallel,
            strict=spec.strict,
            ends=self._eos_ids,
            answer=spec.answer is not None,
        )

    def behind_thought(self, source: str) -> str:
        """A written grammar for a reply that begins within a thought: it holds from the thought's end on.

        Raises:
            ParameterError: the model marks no reasoning.
        """
        whole = json.loads(source)
        body, *more = whole["grammars"]
        if more and more[0].get("name") == "body":  # reasoning was allowed before it already
            body, *more = more
        lark = self._reasoning(whole.get("numbers", {}), begun=True)
        whole["grammars"] = [lark, {**body, "name": "body"}, *more]
        return json.dumps(whole, ensure_ascii=False)

    def _reasoning(self, marks: dict[str, Any], *, begun: bool) -> dict[str, Any]:
        """The grammar of reasoning; ``marks`` get its tokens, for `geminate.grammar.numbers`."""
        opened, closed, lark = reasoning_lark(self._tokenizer, self._eos_ids, begun=begun)
        marks |= {"reasoning": [opened, closed], "begun": begun}
        return {"lark_grammar": lark}


def written(whole: Mapping[str, Any], label: str) -> str:
    """A grammar as text.

    Raises:
        ParameterError: it is too long.
    """
    text = json.dumps(whole, ensure_ascii=False)
    if len(text) > _MAX_TEXT:
        raise ParameterError(f"{label} has {len(text):,} characters, and the limit is {_MAX_TEXT:,}; make it smaller")
    return text


def text_grammar(spec: TextSpec, special: SpecialTexts) -> dict[str, Any]:
    """The grammar of a text in llguidance's input format.

    Raises:
        ParameterError: a malformed grammar, or one that cannot be enforced.
    """
    match spec:
        case JsonObject():
            return _json_grammar({"type": "object"}, special)
        case JsonSchema(schema):
            return _json_grammar(schema, special)
        case Regex(pattern):
            return {"lark_grammar": f"start: {_regex_literal(pattern, special)}"}
        case Lark(grammar):
            return {"lark_grammar": _lark(grammar, special)}
        case _:
            raise ParameterError(
                f"a grammar is a JsonObject, JsonSchema, Regex, Lark or ToolCalls, not {type(spec).__name__}"
            )


def _json_grammar(schema: Mapping[str, Any], special: SpecialTexts) -> dict[str, Any]:
    plain = plain_schema(schema, "the JSON schema, $", refuse=True)
    if "x-guidance" in plain:
        raise ParameterError("the JSON schema contains x-guidance; remove it, because spacing and strictness are fixed")
    check_multiples(plain)
    tighten_numbers(plain)
    _dates(plain)
    special.check_schema(plain, "the JSON schema")
    if not has_finite_value(plain):
        raise ParameterError(
            "no finite JSON value satisfies the schema: it requires itself, or something that is false"
        )
    return {"json_schema": {**plain, "x-guidance": _JSON_OPTIONS}}


def _dates(schema: object) -> None:
    """Write formats with dates as patterns: the library's own admit February 29 in every year."""
    if not isinstance(schema, dict):
        return
    if schema.get("format") in ("date", "date-time") and "pattern" not in schema:
        schema["pattern"] = f"^(?:{FORMAT_REGEXES[schema.pop('format')]})$"
    for _, inner in subschemas(schema):
        _dates(inner)


def _regex_literal(pattern: str, special: SpecialTexts) -> str:
    if not isinstance(pattern, str):
        raise ParameterError(f"a regular expression must be a string, not a {type(pattern).__name__}")
    _encodable(pattern, "regular expression")
    special.check_regex(pattern, "the regular expression")
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, use_ascii='d')}/" if pattern else '""'


def _lark(grammar: str, special: SpecialTexts) -> str:
    if not isinstance(grammar, str) or not grammar.strip():
        raise ParameterError("a Lark grammar must be a string with the rule 'start'")
    _encodable(grammar, "Lark grammar")
    if _GBNF.search(grammar):
        raise ParameterError(
            "the grammar is GBNF (root ::= ...), and Lark is needed: name: in place of name ::=, start in place of "
            "root, /[a-z]/ in place of [a-z]"
        )
    rules = len(_RULE.findall(grammar))
    if rules > _MAX_RULES:
        raise ParameterError(f"the Lark grammar has {rules:,} rules, and the limit is {_MAX_RULES:,}")
    intersections = QUOTED.sub("", grammar).count("&")
    if intersections > _MAX_INTERSECTIONS:
        raise ParameterError(
            f"the Lark grammar has {intersections} intersections (&), and the limit is {_MAX_INTERSECTIONS}"
        )
    for literal in QUOTED.findall(grammar):
        special.check_literal(literal, "the Lark grammar")
    return grammar


def _encodable(text: str, label: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParameterError(f"the {label} contains an unpaired surrogate, so it is not valid Unicode") from error
