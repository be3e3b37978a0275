"""The state of a grammar in one completion; it can be advanced along a draft and rolled back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geminate.decoding.constraint import Constraint
from geminate.errors import GrammarError

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MAX_FORCED = 64


class Grammar:
    """A compiled grammar, created by `GrammarCompiler`.

    Attributes:
        source: the grammar as text, from which `GrammarCompiler.start` can recreate it.
        ends: bool [vocab_size], the end-of-sequence tokens.
    """

    def __init__(self, build: Callable[[], LLMatcher], source: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self.source = source
        self._build = build
        self._matcher = build()
        self.vocab_size = vocab_size
        self.ends: NDArray[np.bool_] = np.zeros(vocab_size, dtype=np.bool_)
        self.ends[list(eos_ids)] = True
        self.ends.flags.writeable = False

    def start(self) -> Constraint:
        """A fresh state, for one completion."""
        return GrammarState(self)

    def matcher(self, *, fresh: bool = False) -> LLMatcher:
        """A matcher at the start. All matchers share one automaton of limited size; ``fresh`` builds a new one."""
        if fresh:
            self._matcher = self._build()
        return self._matcher.deep_copy()


class GrammarState:
    """A `Constraint` backed by an llguidance matcher.

    A matcher never recovers from an error. The cause may be other completions (a full automaton) or a draft token (a
    limit), so the state is rebuilt with a fresh matcher before an error is reported.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._matcher = grammar.matcher()
        self._tokens: list[int] = []  # tokens consumed by the matcher
        self._over = 0  # end tokens after the text was complete; not passed to the matcher
        self._mask: NDArray[np.bool_] | None = None
        self._forces = True

    def allowed(self) -> NDArray[np.bool_]:
        """See `Constraint`; bool [vocab_size].

        Raises:
            GrammarError: the grammar has become too complex to follow, or allows no token here.
        """
        if self._over:
            return self._grammar.ends
        if self._mask is None:
            bits = self._matcher.compute_bitmask()
            if self._matcher.is_error():  # the mask allows only the end then
                self._rebuild()
                bits = self._matcher.compute_bitmask()
                self._check()
            raw = np.frombuffer(bits, dtype=np.uint8)
            mask = np.unpackbits(raw, count=self._grammar.vocab_size, bitorder="little").view(np.bool_)
            if not mask.any():
                raise GrammarError("the grammar allows no token here, so the completion cannot continue")
            self._mask = mask
        return self._mask

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"the grammar cannot be followed further: {message(self._matcher.get_error())}")

    def advance(self, token: int) -> None:
        """See `Constraint`.

        Raises:
            GrammarError: a token that is not allowed; the state is unchanged.
        """
        if self._over or (self._grammar.ends[token] and self._matcher.is_accepting()):
            if not self._grammar.ends[token]:
                raise GrammarError(f"token {token} after the end of what the grammar allows")
            self._over += 1
            return
        taken = self._matcher.try_consume_tokens([token])
        if self._matcher.is_error():
            self._rebuild()
            taken = self._matcher.try_consume_tokens([token])
            self._check()
        if taken != 1:
            raise GrammarError(f"token {token} is not what the grammar allows here")
        self._tokens.append(token)
        self._mask = None

    def rollback(self, count: int) -> None:
        """See `Constraint`."""
        if not 0 <= count <= self._over + len(self._tokens):
            raise GrammarError(f"cannot take back {count} of {self._over + len(self._tokens)} tokens")
        ended = min(count, self._over)
        self._over -= ended
        count -= ended
        if count:
            del self._tokens[len(self._tokens) - count :]
            self._mask = None
        if self._matcher.is_error() or (count and not self._matcher.rollback(count)):
            self._rebuild()

    def _rebuild(self) -> None:
        """Recreate the state after `_tokens` with a fresh matcher, which is in error if that fails."""
        self._mask = None
        self._matcher = self._grammar.matcher(fresh=True)
        self._matcher.consume_tokens(self._tokens)

    def forced(self) -> tuple[int, ...]:
        """See `Constraint`: the only possible continuation, tokenized as the tokenizer would."""
        if self._over or not self._forces or self._matcher.is_error():
            return ()
        tokens = self._matcher.compute_ff_tokens()
        if self._matcher.is_error():  # a failed draft must not stop a completion that verification could continue
            self._forces = False
            self._rebuild()
            return ()
        return tuple(tokens[:_MAX_FORCED])


def message(text: str) -> str:
    """The library's message on one line of limited length."""
    line = " ".join(text.replace("<non-verbose/>", "").split())
    if "panic" in line or "<backtrace>" in line:
        return "the grammar engine cannot handle it"
    if line in ("NoExtensionBias", "NoExtension"):
        line = "it allows no output at all"
    return line if len(line) <= 400 else line[:400] + " ..."
