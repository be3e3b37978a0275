"""Grammars that constrain a completion: JSON, JSON schemas, regular expressions, Lark grammars, tool calls.

The `llguidance` package compiles them and computes after every token which tokens may follow; this module connects
it to a model's tokenizer. The per-completion state is in `geminate.grammar.state`.

JSON is generated on one line with ``", "`` and ``": "`` as separators: a model that is free to add white space may
never finish.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geminate.decoding.constraint import Constraint
from geminate.errors import GeminateError, ParameterError
from geminate.grammar.json_schema import check_multiples, has_finite_value, schema_text
from geminate.grammar.state import Grammar as Grammar
from geminate.grammar.state import message
from geminate.grammar.token_range import token_range
from geminate.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_MAX_TEXT = 131_072  # characters per grammar
_MAX_RULES = 1_000  # rules per Lark grammar; compile time is quadratic in a chain of rules
_STACK = 256 << 20  # bytes; chains of rules are compiled recursively, and 8 MiB suffice for about 1,500
_CACHED = 16  # compiled grammars
_MAX_INTERSECTIONS = 16  # in a Lark grammar: states multiply
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][^:\n\"/]*:", re.MULTILINE)
# Error messages without the parser's state; fewer lexer states than the default, at 1 to 2 kB each.
_LIMITS: dict[str, Any] = {"verbose_errors": False, "max_lexer_states": 8_000}
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}


@dataclass(frozen=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True)
class JsonSchema:
    """JSON that satisfies a schema (Draft 2020-12, as far as `llguidance` goes); properties keep their order."""

    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Regex:
    """Text that fully matches a regular expression (Rust syntax: no look-around, no back-references)."""

    pattern: str


@dataclass(frozen=True)
class Lark:
    """A context-free grammar in llguidance's dialect of Lark; its start rule is ``start``."""

    grammar: str


@dataclass(frozen=True, kw_only=True)
class ToolCalls:
    """Tool calls in the syntax of the model's dialect.

    Attributes:
        tools: pairs of a name and the JSON schema of the arguments, or None for no arguments.
        required: at least one call and no other text; otherwise free text, optionally followed by calls.
        parallel: allow several consecutive calls.
        strict: reject schemas that the syntax cannot fully enforce, instead of ignoring the unsupported keywords; for
            all tools, or for those named.
    """

    tools: Sequence[tuple[str, Mapping[str, Any] | None]]
    required: bool = False
    parallel: bool = True
    strict: bool | Collection[str] = False


GrammarSpec = JsonObject | JsonSchema | Regex | Lark | ToolCalls
_LABELS = {
    JsonObject: "the grammar",
    JsonSchema: "the JSON schema",
    Regex: "the regular expression",
    Lark: "the Lark grammar",
    ToolCalls: "the grammar of the tools",
}


class GrammarCompiler:
    """Compiles grammars for one model; thread-safe.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: number of logits, which may be padded beyond the tokenizer's vocabulary.
        eos_ids: end-of-sequence tokens, allowed wherever the grammar may end.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, tokenizer.vocab_size)
        self._logits = vocab_size
        self._eos_ids = sorted({token for token in eos_ids if 0 <= token < vocab_size})
        self._made: tuple[LLTokenizer, LLParserLimits] | None = None
        self._known: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, spec: GrammarSpec, *, reasoning: bool = False) -> Grammar:
        """Compile a grammar, or return it from the cache of recently compiled ones.

        Args:
            reasoning: allow reasoning, between the dialect's marks, before the constrained part.

        Raises:
            ParameterError: a grammar that is malformed, too large, allows no output or contains something that cannot
                be enforced; or a model without the tokens it needs.
            GeminateError: `llguidance` is not installed.
        """
        _need_library()
        return self._compiled(self._source(spec, reasoning), _LABELS[type(spec)])

    def start(self, source: str) -> Constraint:
        """A fresh state, for one completion, of the grammar with this source text (`Grammar.source`).

        Raises:
            ParameterError: not a grammar from this compiler.
        """
        _need_library()
        return self._compiled(source, "the grammar").start()

    def _compiled(self, source: str, label: str) -> Grammar:
        with self._lock:
            found = self._known.get(source)
            if found is not None:
                self._known.move_to_end(source)
                return found
        grammar = self._grammar(source, label)
        with self._lock:
            self._known[source] = grammar
            while len(self._known) > _CACHED:
                self._known.popitem(last=False)
        return grammar

    def _source(self, spec: GrammarSpec, reasoning: bool) -> str:
        """The grammar in llguidance's input format: a JSON object with one or two grammars."""
        if not self._eos_ids:
            raise ParameterError("this model has no token that ends a sequence, so a grammar could never finish")
        match spec:
            case JsonObject():
                body = _json_grammar({"type": "object"})
            case JsonSchema(schema):
                body = _json_grammar(schema)
            case Regex(pattern):
                body = {"lark_grammar": f"start: {_regex_literal(pattern)}"}
            case Lark(grammar):
                body = {"lark_grammar": _lark(grammar)}
            case ToolCalls():
                tokens = self._tokenizer.call_tokens()
                syntax = self._tokenizer.dialect.tools
                assert syntax is not None
                lark = syntax.grammar(
                    spec.tools,
                    tokens,
                    required=spec.required,
                    parallel=spec.parallel,
                    strict=spec.strict,
                    ends=self._eos_ids,
                )
                body = {"lark_grammar": lark}
        grammars = [body]
        if reasoning:
            grammars = [{"lark_grammar": self._reasoning()}, {"name": "body", **body}]
        text = json.dumps({"grammars": grammars}, ensure_ascii=False)
        if len(text) > _MAX_TEXT:
            raise ParameterError(
                f"{_LABELS[type(spec)]} has {len(text):,} characters, and the limit is {_MAX_TEXT:,}; make it smaller"
            )
        return text

    def _reasoning(self) -> str:
        marks = self._tokenizer.dialect.reasoning
        if marks is None:
            raise ParameterError(
                "this model's family marks no reasoning, so it cannot reason before the constrained part"
            )
        opened, closed = self._tokenizer.token_id(marks.opened), self._tokenizer.token_id(marks.closed)
        if opened is None or closed is None:
            raise ParameterError(
                f"this model has no {marks.opened} token, so it cannot reason before the constrained part"
            )
        inside = token_range([*self._eos_ids, opened, closed], but=True)
        line = json.dumps(marks.line, ensure_ascii=False)
        return f"start: reasoning? @body\nreasoning: <[{opened}]> {line} {inside}* <[{closed}]>\n"

    def _library(self) -> tuple[LLTokenizer, LLParserLimits]:
        with self._lock:
            if self._made is None:
                from llguidance import LLParserLimits, LLTokenizer

                tokenizer = LLTokenizer(
                    self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=list(self._eos_ids)
                )
                self._made = tokenizer, LLParserLimits(**_LIMITS)
            return self._made

    def _grammar(self, source: str, label: str) -> Grammar:
        tokenizer, limits = self._library()
        from llguidance import LLMatcher

        def build() -> LLMatcher:
            return LLMatcher(tokenizer, source, log_level=0, limits=limits)

        grammar = Grammar(lambda: _with_deep_stack(build), source, self._logits, self._eos_ids)
        probe = grammar.matcher()
        if not probe.is_error():
            # A grammar that allows nothing, or forces endless text, fails when the first masks are computed.
            probe.compute_bitmask()
            forced = probe.compute_ff_tokens()
            if forced and not probe.is_error():
                probe.consume_token(forced[0])
                probe.compute_bitmask()
        if probe.is_error():
            raise ParameterError(f"{label} cannot be used: {message(probe.get_error())}")
        return grammar


def _need_library() -> None:
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise GeminateError("grammars require the package llguidance: pip install 'geminate[server]'") from error


def _with_deep_stack(build: Callable[[], LLMatcher]) -> LLMatcher:
    """Run ``build`` in a thread whose stack is large enough for the deepest grammar of `_MAX_TEXT` characters."""
    made: list[LLMatcher] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(build())
        except BaseException as error:  # a panic in the library is not an Exception
            failed.append(error)

    with _stack_lock:
        before = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=run, name="geminate-grammar", daemon=True)
            thread.start()
        except RuntimeError as error:
            raise GeminateError(
                f"not enough memory for the {_STACK >> 20} MiB stack needed to compile grammars"
            ) from error
        finally:
            threading.stack_size(before)
    thread.join()
    if failed:
        raise ParameterError(f"the grammar cannot be compiled: {message(str(failed[0]))}") from failed[0]
    return made[0]


_stack_lock = threading.Lock()


def _json_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(schema_text(schema))
    if "x-guidance" in plain:
        raise ParameterError("the JSON schema contains x-guidance; remove it, because spacing and strictness are fixed")
    check_multiples(plain)
    if not has_finite_value(plain):
        raise ParameterError(
            "no finite JSON value satisfies the schema: it requires itself, or something that is false"
        )
    return {"json_schema": {**plain, "x-guidance": _JSON_OPTIONS}}


def _regex_literal(pattern: str) -> str:
    if not isinstance(pattern, str):
        raise ParameterError(f"a regular expression must be a string, not a {type(pattern).__name__}")
    _encodable(pattern, "regular expression")
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, use_ascii='d')}/" if pattern else '""'


def _lark(grammar: str) -> str:
    if not isinstance(grammar, str) or not grammar.strip():
        raise ParameterError("a Lark grammar must be a string with the rule 'start'")
    _encodable(grammar, "Lark grammar")
    rules = len(_RULE.findall(grammar))
    if rules > _MAX_RULES:
        raise ParameterError(f"the Lark grammar has {rules:,} rules, and the limit is {_MAX_RULES:,}")
    intersections = _QUOTED.sub("", grammar).count("&")
    if intersections > _MAX_INTERSECTIONS:
        raise ParameterError(
            f"the Lark grammar has {intersections} intersections (&), and the limit is {_MAX_INTERSECTIONS}"
        )
    return grammar


def _encodable(text: str, label: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParameterError(f"the {label} contains an unpaired surrogate, so it is not valid Unicode") from error
