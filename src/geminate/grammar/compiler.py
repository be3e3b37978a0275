"""Grammars that constrain a completion: JSON, JSON schemas, regular expressions, Lark grammars, tool calls.

The `llguidance` package compiles them and computes after every token which tokens may follow; this module connects
it to a model's tokenizer. The per-completion state is in `geminate.grammar.state`.

JSON is generated on one line with ``", "`` and ``": "`` as separators: a model that is free to add white space may
never finish.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from geminate.decoding.constraint import Constraint
from geminate.errors import GeminateError, GrammarBusyError, ParameterError
from geminate.grammar.followers import LocalFollower, RemoteFollower
from geminate.grammar.matching import Library, UnusableGrammarError
from geminate.grammar.source import SourceWriter
from geminate.grammar.specs import LABELS
from geminate.grammar.specs import GrammarSpec as GrammarSpec
from geminate.grammar.specs import JsonObject as JsonObject
from geminate.grammar.specs import JsonSchema as JsonSchema
from geminate.grammar.specs import Lark as Lark
from geminate.grammar.specs import Reasoning as Reasoning
from geminate.grammar.specs import Regex as Regex
from geminate.grammar.specs import TextSpec as TextSpec
from geminate.grammar.specs import ToolCalls as ToolCalls
from geminate.grammar.state import Grammar as Grammar
from geminate.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    if sys.platform == "win32":
        GrammarHost: TypeAlias = Any
    else:
        from geminate.grammar.host import GrammarHost

_KEPT = 16  # compiled grammars
_REMEMBERED_S = 600.0  # failures: on a busy machine a grammar may have failed for lack of time
_MAX_REMEMBERED = 1_000
# Error messages without the parser's state; fewer lexer states than the default, at 1 to 2 kB each.
LIMITS: dict[str, Any] = {"verbose_errors": False, "max_lexer_states": 8_000}


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
        self._writer = SourceWriter(tokenizer, self._eos_ids)
        self._made: Library | None = None
        self._host: GrammarHost | None = None
        self._kept: OrderedDict[str, tuple[float, Grammar]] = OrderedDict()  # the latest, with the time of their use
        self._living: weakref.WeakValueDictionary[str, Grammar] = weakref.WeakValueDictionary()  # and those in use
        self._failed: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()

    def isolate(self, memory: int) -> bool:
        """Compile and follow grammars in processes of their own from now on, within ``memory`` bytes for all of them.

        A grammar that takes too much time or memory then fails alone, and masks are computed while the engine works.

        Returns:
            whether they do; False on Windows, which cannot fork: there grammars stay in this process, whose limits of
            `llguidance` are the only ones.
        """
        if sys.platform != "win32":
            from geminate.grammar.host import GrammarHost  # of servers alone: it loads multiprocessing

            self._host = GrammarHost(
                self._tokenizer.to_json(),
                vocab_size=self._vocab_size,
                eos_ids=self._eos_ids,
                limits=LIMITS,
                memory=memory,
            )
        return self._host is not None

    def warm_up(self) -> None:
        """Do now what the first compilation would wait for.

        Raises:
            GeminateError: the grammar processes cannot be started; or `llguidance` is not installed.
        """
        need_library()
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
        need_library()
        return self._compiled(self._writer.write(spec, reasoning), LABELS[type(spec)], cancelled)

    def behind_thought(self, grammar: Grammar) -> Grammar:
        """The same grammar for a reply that begins within a thought: it holds from the thought's end on.

        Raises:
            ParameterError: as `compile`.
        """
        return self._compiled(self._writer.behind_thought(grammar.source), "the grammar")

    def prepare(self, source: str) -> Grammar:
        """Compile a grammar from the source text (`Grammar.source`) that another process made; keep it while used.

        Raises:
            ParameterError, GrammarBusyError, GeminateError: as `compile`.
        """
        need_library()
        return self._compiled(source, "the grammar")

    def start(self, source: str) -> Constraint:
        """A fresh state, for one completion, of the grammar with this source text (`Grammar.source`).

        After `isolate` it never waits for a compilation, because an engine calls it between two passes.

        Raises:
            ParameterError: not a grammar from this compiler.
            GrammarBusyError: after `isolate`: a grammar that is not compiled, or not any more.
        """
        need_library()
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
                    self._tokenizer.to_json(), vocab_size=self._vocab_size, eos_ids=self._eos_ids, limits=LIMITS
                )
            return self._made


def _digest(source: str) -> bytes:
    return hashlib.sha256(source.encode()).digest()


def need_library() -> None:
    """Fail without the package that compiles grammars.

    Raises:
        GeminateError: it is not installed.
    """
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise GeminateError("grammars require the package llguidance: pip install 'llguidance>=1.7,<2'") from error
