"""Grammars as `llguidance` follows them: what a completion may continue with, position by position.

Imports little but `llguidance`, because it also runs in the grammar processes (`geminate.grammar.worker`).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geminate.grammar.numbers import NumberBounds

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_STACK = 256 << 20  # bytes; chains of rules are compiled recursively, and 8 MiB suffice for about 1,500
_MAX_FORCED = 64
_TOTAL_PROBES = 4


class UnusableGrammarError(Exception):
    """The library's message about a grammar that it cannot compile or follow."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a grammar allows along some tokens.

    Attributes:
        places: for every position asked about, whether the text may end there, and a bit for every token of the
            vocabulary; fewer than asked if there was an ``error``.
        forced: the only possible continuation of the last position, tokenized as the tokenizer would, or None if it
            was not asked for.
        seconds: processor time that the answer took.
        memory: bytes that the process has come to use; 0 in the caller's own.
    """

    places: Sequence[tuple[bool, bytes]]
    forced: tuple[int, ...] | None = None
    error: str | None = None
    seconds: float = 0.0
    memory: int = 0


class Library:
    """`llguidance` with a model's tokenizer.

    Args:
        tokenizer: tokenizer.json, or ``byte`` for a vocabulary of bytes.
        vocab_size: number of logits. eos_ids: tokens that end a sequence; None for both: the tokenizer's own.
        limits: keyword arguments of `LLParserLimits`.
    """

    def __init__(
        self, tokenizer: str, *, vocab_size: int | None, eos_ids: Sequence[int] | None, limits: Mapping[str, Any]
    ) -> None:
        from llguidance import LLParserLimits, LLTokenizer

        self.tokenizer: LLTokenizer = LLTokenizer(
            tokenizer, n_vocab=vocab_size, eos_token=None if eos_ids is None else list(eos_ids)
        )
        self.limits: LLParserLimits = LLParserLimits(**limits)

    def compile(self, source: str) -> CompiledGrammar:
        """Compile a grammar in the library's JSON format, and follow it for a few tokens.

        Raises:
            UnusableGrammarError: it cannot be compiled or followed, or allows nothing.
        """
        compiled = CompiledGrammar(self, source)
        compiled.probe()
        return compiled


class CompiledGrammar:
    """A compiled grammar; all matchers made of it share one automaton of limited size."""

    def __init__(self, library: Library, source: str) -> None:
        self._library, self._source = library, source
        marks = json.loads(source).get("numbers")
        self.numbers = None if marks is None else NumberBounds(marks, lambda t: library.tokenizer.decode_bytes([t]))
        self._matcher = self._build()

    def _build(self) -> LLMatcher:
        from llguidance import LLMatcher

        library = self._library

        def build() -> LLMatcher:
            return LLMatcher(library.tokenizer, self._source, log_level=0, limits=library.limits)

        return _with_deep_stack(build)

    def probe(self) -> None:
        """Fail for a grammar that allows nothing, forces endless text, or is beyond the limits from the start."""
        probe = self._matcher.deep_copy()
        for _ in range(_TOTAL_PROBES):
            if probe.is_error():
                break
            probe.compute_bitmask()
            forced = [] if probe.is_error() else probe.compute_ff_tokens()
            if not forced or probe.is_error():
                break
            probe.consume_token(forced[0])
        if probe.is_error():
            raise UnusableGrammarError(message(probe.get_error()))

    def matcher(self, *, fresh: bool = False) -> LLMatcher:
        """A matcher at the start; ``fresh`` builds a new automaton."""
        if fresh:
            self._matcher = self._build()
        return self._matcher.deep_copy()


class Matching:
    """One completion's place in a compiled grammar; not thread-safe.

    A matcher never recovers from an error. The cause may be other completions, which have filled the automaton, or a
    guess that was too much; so a step that fails is tried once more with a new automaton.
    """

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._matcher = grammar.matcher()
        self._tokens: list[int] = []
        self._numbers = grammar.numbers
        self._states = [] if self._numbers is None else [self._numbers.start]

    def follow(self, keep: int, tokens: Sequence[int], first: int, *, forced: bool) -> Answer:
        """Go back to the first ``keep`` tokens, then on along ``tokens``.

        Args:
            first: positions from this one (0 is before the first token) to the last are reported.
            forced: report the continuation forced at the last one too.
        """
        began = time.process_time()
        places: list[tuple[bool, bytes]] = []
        only: tuple[int, ...] | None = None
        error: str | None = None
        try:
            self._back_to(keep)
            if first <= keep:
                places.append(self._place())
            for token in tokens:
                self._take(token)
                if first <= len(self._tokens):
                    places.append(self._place())
            if forced:
                only = self._forced()
        except UnusableGrammarError as failure:
            error = str(failure)
        return Answer(places=places, forced=only, error=error, seconds=time.process_time() - began)

    def _back_to(self, keep: int) -> None:
        back = len(self._tokens) - keep
        if back < 0:
            raise UnusableGrammarError("what came before could not be followed")
        del self._tokens[keep:]
        del self._states[keep + 1 :]
        if self._matcher.is_error() or (back and not self._matcher.rollback(back)):
            self._restart(fresh=False)

    def _restart(self, *, fresh: bool) -> None:
        self._matcher = self._grammar.matcher(fresh=fresh)
        self._matcher.consume_tokens(self._tokens)

    def _place(self) -> tuple[bool, bytes]:
        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._restart(fresh=True)
            bits = self._matcher.compute_bitmask()
        self._check()
        if self._numbers is not None:
            bits = self._numbers.restrict(self._states[-1], bits)
        return self._matcher.is_accepting(), bits

    def _take(self, token: int) -> None:
        taken = self._matcher.try_consume_tokens([token])
        if self._matcher.is_error():
            self._restart(fresh=True)
            taken = self._matcher.try_consume_tokens([token])
        self._check()
        if taken != 1:
            raise UnusableGrammarError(f"token {token} is not allowed")
        self._tokens.append(token)
        if self._numbers is not None:
            self._states.append(self._numbers.after(self._states[-1], token))

    def _forced(self) -> tuple[int, ...]:
        tokens = self._matcher.compute_ff_tokens()
        if self._matcher.is_error():  # a failed guess must not stop a completion that could continue
            self._restart(fresh=True)
            return ()
        # The library tokenizes forced text; where that gives a special token, the grammar does not allow it.
        return tuple(tokens[: min(_MAX_FORCED, self._matcher.validate_tokens(tokens))])

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UnusableGrammarError(message(self._matcher.get_error()))


_WORDS = (
    (r"oneOf constraints", "the options of 'oneOf' may overlap, which cannot be enforced; use anyOf"),
    (
        r"Failed to generate regex for (integer|float) range",
        "the bounds of a number are too large: a minimum must be below 10^18, and a maximum above -10^18",
    ),
    (r"Value for 'multipleOf' has too many digits", "a multipleOf has too many decimal places; use at most 9"),
    (r"doesn't satisfy the grammar; forced bytes", "it spells out the text of a special token; remove that text"),
)


def message(text: str) -> str:
    """The library's message on one line of limited length, in other words where it speaks of the library's inside."""
    line = " ".join(text.replace("<non-verbose/>", "").split())
    for pattern, words in _WORDS:
        if re.search(pattern, line):
            return words
    if unknown := re.search(r"Unimplemented keys: \[(.*)\]", line):
        return f"unsupported keywords: {unknown[1]}"
    if "panic" in line or "<backtrace>" in line:
        return "the grammar engine cannot handle it"
    if line in ("NoExtensionBias", "NoExtension"):
        line = "it allows no output at all"
    return line if len(line) <= 400 else line[:400] + " ..."


def _with_deep_stack(build: Callable[[], LLMatcher]) -> LLMatcher:
    """Run ``build`` in a thread whose stack is large enough for the deepest grammar that is accepted."""
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
            raise UnusableGrammarError(
                f"not enough memory for the {_STACK >> 20} MiB stack needed to compile it"
            ) from error
        finally:
            threading.stack_size(before)
    thread.join()
    if failed:
        raise UnusableGrammarError(message(str(failed[0]))) from failed[0]
    return made[0]


_stack_lock = threading.Lock()
