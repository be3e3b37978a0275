"""Grammars that a reply is kept to: JSON, JSON schemas, regular expressions, Lark grammars, tool calls.

The `llguidance` package compiles them and says after every token which tokens may follow; here is what binds it
to a model's tokenizer. The states that replies run through are in `geminate.grammar.state`.

JSON is written in one line with ``", "`` and ``": "`` between items: a model that may add white space where it
likes may never come to an end.
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
from geminate.grammar.json_schema import has_finite_value, schema_text
from geminate.grammar.state import Grammar as Grammar
from geminate.grammar.state import message
from geminate.grammar.tool_grammar import calls_lark, token_range
from geminate.text.call_tokens import CallTokens
from geminate.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_MAX_TEXT = 131_072  # characters of a grammar
_MAX_RULES = 1_000  # definitions of a Lark grammar; compilation takes quadratic time in a chain of them
_STACK = 256 << 20  # bytes; a chain of rules is compiled recursively, and 8 MiB hold about 1,500
_KEPT = 32  # compiled grammars
_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][^:\n\"/]*:", re.MULTILINE)
# Messages without the parser's state; fewer states than usual, at 1 to 2 kB each.
_LIMITS: dict[str, Any] = {"verbose_errors": False, "max_lexer_states": 50_000}
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
    """JSON that fits a schema (Draft 2020-12, as far as `llguidance` goes); properties come in the schema's order."""

    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Regex:
    """Text that a regular expression matches as a whole (Rust's syntax: no look-around, no back-references)."""

    pattern: str


@dataclass(frozen=True)
class Lark:
    """A context-free grammar in llguidance's dialect of Lark, with the rule ``start``."""

    grammar: str


@dataclass(frozen=True, kw_only=True)
class ToolCalls:
    """Calls of tools in Gemma 4's syntax.

    Attributes:
        tools: (name, JSON schema of its arguments, None for no arguments).
        required: nothing but calls, at least one; otherwise free text, and calls after it if the model likes.
        parallel: whether several calls may follow each other.
        strict: refuse what the syntax cannot keep to in a schema instead of ignoring it: all tools, or those named.
    """

    tools: Sequence[tuple[str, Mapping[str, Any] | None]]
    required: bool = False
    parallel: bool = True
    strict: bool | Collection[str] = False


GrammarSpec = JsonObject | JsonSchema | Regex | Lark | ToolCalls
_SAID = {
    JsonObject: "the grammar",
    JsonSchema: "the JSON schema",
    Regex: "the regular expression",
    Lark: "the Lark grammar",
    ToolCalls: "the grammar of the tools",
}


class GrammarCompiler:
    """Compiles grammars for one model; any thread may call it.

    Args:
        tokenizer: the model's.
        vocab_size: of the model's logits, possibly padded beyond the tokenizer's.
        eos_ids: tokens that end a generation: allowed wherever the grammar may end.
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
        """Compile a grammar, or find it among the last ones compiled.

        Args:
            reasoning: a thought, ``<|channel>thought\\n ... <channel|>``, may come before the constrained part.

        Raises:
            ParameterError: a grammar that is malformed, too large, allows nothing or holds what cannot be kept to;
                or a model without the tokens it needs.
            GeminateError: `llguidance` is not installed.
        """
        _need_library()
        return self._compiled(self._source(spec, reasoning), _SAID[type(spec)])

    def start(self, source: str) -> Constraint:
        """The fresh state of a grammar by its source text (`Grammar.source`), for one completion.

        Raises:
            ParameterError: not a grammar of this compiler's.
        """
        _need_library()
        return self._compiled(source, "the grammar").start()

    def _compiled(self, source: str, said: str) -> Grammar:
        with self._lock:
            found = self._known.get(source)
            if found is not None:
                self._known.move_to_end(source)
                return found
        grammar = self._grammar(source, said)
        with self._lock:
            self._known[source] = grammar
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return grammar

    def _source(self, spec: GrammarSpec, reasoning: bool) -> str:
        """The grammar as llguidance takes it: JSON of one or two grammars."""
        if not self._eos_ids:
            raise ParameterError("this model names no token that ends a reply, so no grammar could end")
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
                tokens = CallTokens.find(self._tokenizer)
                lark = calls_lark(
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
            grammars = [{"lark_grammar": self._thought()}, {"name": "body", **body}]
        text = json.dumps({"grammars": grammars}, ensure_ascii=False)
        if len(text) > _MAX_TEXT:
            raise ParameterError(
                f"{_SAID[type(spec)]} has {len(text):,} characters, and {_MAX_TEXT:,} are the limit; make it smaller"
            )
        return text

    def _thought(self) -> str:
        opened, closed = (self._tokenizer.token_id(text) for text in ("<|channel>", "<channel|>"))
        if opened is None or closed is None:
            raise ParameterError("this model has no <|channel> token, so it cannot reason before it answers")
        inside = token_range([*self._eos_ids, opened, closed], but=True)
        return f'start: thought? @body\nthought: <[{opened}]> "thought\\n" {inside}* <[{closed}]>\n'

    def _library(self) -> tuple[LLTokenizer, LLParserLimits]:
        with self._lock:
            if self._made is None:
                from llguidance import LLParserLimits, LLTokenizer

                tokenizer = LLTokenizer(
                    self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=list(self._eos_ids)
                )
                self._made = tokenizer, LLParserLimits(**_LIMITS)
            return self._made

    def _grammar(self, source: str, said: str) -> Grammar:
        tokenizer, limits = self._library()
        from llguidance import LLMatcher

        def build() -> LLMatcher:
            return LLMatcher(tokenizer, source, log_level=0, limits=limits)

        grammar = Grammar(lambda: _with_deep_stack(build), source, self._logits, self._eos_ids)
        probe = grammar.matcher()
        if not probe.is_error():
            # What allows nothing, or forces text without end, shows with the first masks.
            probe.compute_bitmask()
            forced = probe.compute_ff_tokens()
            if forced and not probe.is_error():
                probe.consume_token(forced[0])
                probe.compute_bitmask()
        if probe.is_error():
            raise ParameterError(f"{said} cannot be used: {message(probe.get_error())}")
        return grammar


def _need_library() -> None:
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise GeminateError("grammars need the package llguidance: pip install 'geminate[server]'") from error


def _with_deep_stack(build: Callable[[], LLMatcher]) -> LLMatcher:
    """Run ``build`` in a thread with a stack that the deepest grammar of `_MAX_TEXT` characters fits into."""
    made: list[LLMatcher] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(build())
        except BaseException as error:  # a panic in the library is no Exception
            failed.append(error)

    with _stack_lock:
        before = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=run, name="geminate-grammar")
            thread.start()
        except RuntimeError as error:
            raise GeminateError(
                f"no memory for the {_STACK >> 20} MiB stack that grammars are compiled with"
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
        raise ParameterError("the JSON schema holds x-guidance: spacing and strictness are fixed here; remove it")
    if not has_finite_value(plain):
        raise ParameterError("no finite JSON fits the JSON schema: it requires itself, or what is false")
    return {"json_schema": {**plain, "x-guidance": _JSON_OPTIONS}}


def _regex_literal(pattern: str) -> str:
    if not isinstance(pattern, str):
        raise ParameterError(f"a regular expression must be a string, not a {type(pattern).__name__}")
    _encodable(pattern, "regular expression")
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, use_ascii='d')}/" if pattern else '""'


def _lark(grammar: str) -> str:
    if not isinstance(grammar, str) or not grammar.strip():
        raise ParameterError("a Lark grammar must be a text with the rule 'start'")
    _encodable(grammar, "Lark grammar")
    rules = len(_RULE.findall(grammar))
    if rules > _MAX_RULES:
        raise ParameterError(f"the Lark grammar has {rules:,} rules, and {_MAX_RULES:,} are the limit")
    return grammar


def _encodable(text: str, said: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParameterError(f"the {said} holds a lone surrogate: it is not valid Unicode") from error
