"""Grammars that constrain a completion: JSON, JSON schemas, regular expressions, Lark grammars, tool calls.

The `llguidance` package compiles them and computes after every token which tokens may follow; this module connects
it to a model's tokenizer. The per-completion state is in `geminate.grammar.state`.

JSON is generated on one line with ``", "`` and ``": "`` as separators: a model that is free to add white space may
never finish.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from geminate.decoding.constraint import Constraint
from geminate.errors import GeminateError, GrammarBusyError, ParameterError
from geminate.grammar.followers import LocalFollower, RemoteFollower
from geminate.grammar.host import GrammarHost
from geminate.grammar.json_schema import check_multiples, has_finite_value, schema_text, tighten_numbers
from geminate.grammar.matching import Library, UnusableGrammarError
from geminate.grammar.reasoning import reasoning_lark
from geminate.grammar.state import Grammar as Grammar
from geminate.text.tokenizer import Tokenizer

_MAX_TEXT = 131_072  # characters per grammar
_MAX_RULES = 1_000  # rules per Lark grammar; compile time is quadratic in a chain of rules
_KEPT = 16  # compiled grammars
_REMEMBERED_S = 600.0  # failures: on a busy machine a grammar may have failed for lack of time
_MAX_REMEMBERED = 1_000
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


Reasoning = bool | Literal["open"]
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
        self._made: Library | None = None
        self._host: GrammarHost | None = None
        self._kept: OrderedDict[str, tuple[float, Grammar]] = OrderedDict()  # the latest, with the time of their use
        self._living: weakref.WeakValueDictionary[str, Grammar] = weakref.WeakValueDictionary()  # and those in use
        self._failed: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()

    def isolate(self, memory: int) -> None:
        """Compile and follow grammars in processes of their own from now on, within ``memory`` bytes for all of them.

        A grammar that takes too much time or memory then fails alone, and masks are computed while the engine works.
        """
        self._host = GrammarHost(
            self._tokenizer.to_json(),
            vocab_size=self._vocab_size,
            eos_ids=self._eos_ids,
            limits=_LIMITS,
            memory=memory,
        )

    def warm_up(self) -> None:
        """Do now what the first compilation would wait for.

        Raises:
            GeminateError: the grammar processes cannot be started; or `llguidance` is not installed.
        """
        _need_library()
        if self._host is None:
            self._library()
        else:
            self._host.start()

    def drop_idle(self, seconds: float) -> None:
        """Forget grammars that were not compiled or asked for in the last ``seconds``, unless a completion has them."""
        with self._lock:
            while self._kept and next(iter(self._kept.values()))[0] < time.monotonic() - seconds:
                self._kept.popitem(last=False)

    def close(self) -> None:
        """End the grammar processes, if there are any; completions that still follow a grammar fail."""
        if self._host is not None:
            self._host.close()

    @property
    def memory(self) -> int:
        """Bytes that grammars use in their processes."""
        return 0 if self._host is None else self._host.used

    def compile(
        self, spec: GrammarSpec, *, reasoning: Reasoning = False, cancelled: threading.Event | None = None
    ) -> Grammar:
        """Compile a grammar, or return it from the cache of recently compiled ones.

        Args:
            reasoning: allow reasoning, between the dialect's marks, before the constrained part; ``open``: the prompt
                leaves a thought open, whose rest and end come before the constrained part.
            cancelled: gives the compilation up when it is set; after `isolate` only.

        Raises:
            ParameterError: a grammar that is malformed, too large, allows no output, contains something that cannot
                be enforced, takes too much time or memory, or did so a short while ago; or a model without the tokens
                it needs.
            GrammarBusyError: too many others are being compiled.
            GeminateError: `llguidance` is not installed.
        """
        _need_library()
        return self._compiled(self._source(spec, reasoning), _LABELS[type(spec)], cancelled)

    def behind_thought(self, grammar: Grammar) -> Grammar:
        """The same grammar for a reply that begins within a thought: it holds from the thought's end on.

        Raises:
            ParameterError: as `compile`.
        """
        body = json.loads(grammar.source)["grammars"][-1]
        return self._compiled(self._joined(body, "open"), "the grammar")

    def start(self, source: str) -> Constraint:
        """A fresh state, for one completion, of the grammar with this source text (`Grammar.source`).

        After `isolate` it never waits for a compilation, because an engine calls it between two passes.

        Raises:
            ParameterError: not a grammar from this compiler.
            GrammarBusyError: after `isolate`: a grammar that is not compiled, or not any more.
        """
        _need_library()
        if self._host is None:
            return self._compiled(source, "the grammar").start()
        with self._lock:
            found = self._living.get(source)
        if found is None or not found.alive():
            raise GrammarBusyError("the grammar gave way to those of other requests; try again in a few seconds")
        return found.start()

    def _compiled(self, source: str, label: str, cancelled: threading.Event | None = None) -> Grammar:
        with self._lock:
            self._check_failed(source, label)
            found = self._living.get(source)
            if found is not None and found.alive():
                self._keep(source, found)
                return found
        try:
            grammar = self._grammar(source, cancelled)
        except UnusableGrammarError as error:
            self._remember(source, str(error))
            raise ParameterError(f"{label} cannot be used: {error}") from error
        with self._lock:
            self._keep(source, grammar)
        return grammar

    def _keep(self, source: str, grammar: Grammar) -> None:
        self._living[source] = grammar
        self._kept[source] = time.monotonic(), grammar
        self._kept.move_to_end(source)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _check_failed(self, source: str, label: str) -> None:
        until, why = self._failed.get(_digest(source), (0.0, ""))
        if time.monotonic() < until:
            raise ParameterError(f"{label} cannot be used: {why} (it failed a short while ago)")

    def _remember(self, source: str, why: str) -> None:
        """Refuse this grammar at once for a while."""
        with self._lock:
            self._failed[_digest(source)] = time.monotonic() + _REMEMBERED_S, why
            while len(self._failed) > _MAX_REMEMBERED:
                self._failed.popitem(last=False)

    def _source(self, spec: GrammarSpec, reasoning: Reasoning) -> str:
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
                tools = [(name, None if given is None else _tightened(given)) for name, given in spec.tools]
                tokens = self._tokenizer.call_tokens()
                syntax = self._tokenizer.dialect.tools
                assert syntax is not None
                lark = syntax.grammar(
                    tools,
                    tokens,
                    required=spec.required,
                    parallel=spec.parallel,
                    strict=spec.strict,
                    ends=self._eos_ids,
                )
                body = {"lark_grammar": lark}
            case _:
                raise ParameterError(
                    f"a grammar is a JsonObject, JsonSchema, Regex, Lark or ToolCalls, not {type(spec).__name__}"
                )
        text = self._joined(body, reasoning)
        if len(text) > _MAX_TEXT:
            raise ParameterError(
                f"{_LABELS[type(spec)]} has {len(text):,} characters, and the limit is {_MAX_TEXT:,}; make it smaller"
            )
        return text

    def _joined(self, body: Mapping[str, Any], reasoning: Reasoning) -> str:
        """A grammar with the reasoning that may, or must, stand before it."""
        grammars = [body]
        if reasoning:
            lark = reasoning_lark(self._tokenizer, self._eos_ids, begun=reasoning == "open")
            grammars = [{"lark_grammar": lark}, {**body, "name": "body"}]
        return json.dumps({"grammars": grammars}, ensure_ascii=False)

    def _grammar(self, source: str, cancelled: threading.Event | None) -> Grammar:
        remember = partial(self._remember, source)
        if self._host is not None:
            process = self._host.compile(source, cancelled)
            remote = partial(RemoteFollower, process)
            return Grammar(
                remote,
                source,
                self._logits,
                self._eos_ids,
                alive=lambda: process.failure is None,
                on_failure=lambda why: None if process.gave_way else remember(why),
            )
        local = partial(LocalFollower, self._library().compile(source))
        return Grammar(local, source, self._logits, self._eos_ids, on_failure=remember)

    def _library(self) -> Library:
        with self._lock:
            if self._made is None:
                self._made = Library(
                    self._tokenizer.to_json(), vocab_size=self._vocab_size, eos_ids=self._eos_ids, limits=_LIMITS
                )
            return self._made


def _digest(source: str) -> bytes:
    return hashlib.sha256(source.encode()).digest()


def _need_library() -> None:
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise GeminateError("grammars require the package llguidance: pip install 'geminate[server]'") from error


def _json_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(schema_text(schema))
    if "x-guidance" in plain:
        raise ParameterError("the JSON schema contains x-guidance; remove it, because spacing and strictness are fixed")
    check_multiples(plain)
    tighten_numbers(plain)
    if not has_finite_value(plain):
        raise ParameterError(
            "no finite JSON value satisfies the schema: it requires itself, or something that is false"
        )
    return {"json_schema": {**plain, "x-guidance": _JSON_OPTIONS}}


def _tightened(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    plain: dict[str, Any] = json.loads(schema_text(schema))
    tighten_numbers(plain)
    return plain


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
