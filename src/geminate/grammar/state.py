"""The state of a grammar in one reply, safe to advance and roll back with drafts."""

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
    """A compiled grammar; made by `GrammarCompiler`.

    Attributes:
        source: its text, from which `GrammarCompiler.start` makes the same grammar again.
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
        """A fresh state, for one reply."""
        return GrammarState(self)

    def matcher(self, *, fresh: bool = False) -> LLMatcher:
        """At the beginning. All of them fill one automaton, whose size is limited, until a fresh one is asked for."""
        if fresh:
            self._matcher = self._build()
        return self._matcher.deep_copy()


class GrammarState:
    """`Constraint` over a matcher.

    A matcher that met an error never leaves it. It may be the fault of other replies (a full automaton) or of a
    guess (a limit), so the state is built again before anything is said to be wrong.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._matcher = grammar.matcher()
        self._tokens: list[int] = []  # what the matcher was told
        self._over = 0  # end tokens taken since the text was complete; the matcher is not told
        self._mask: NDArray[np.bool_] | None = None
        self._forces = True

    def allowed(self) -> NDArray[np.bool_]:
        """See `Constraint`.

        Raises:
            GrammarError: the grammar has become too complex to follow, or leads nowhere.
        """
        if self._over:
            return self._grammar.ends
        if self._mask is None:
            bits = self._matcher.compute_bitmask()
            if self._matcher.is_error():  # the bits say 'end' then
                self._again()
                bits = self._matcher.compute_bitmask()
                self._check()
            raw = np.frombuffer(bits, dtype=np.uint8)
            mask = np.unpackbits(raw, count=self._grammar.vocab_size, bitorder="little").view(np.bool_)
            if not mask.any():
                raise GrammarError("the grammar allows no token here; no reply can fit it")
            self._mask = mask
        return self._mask

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"the grammar cannot be followed further: {message(self._matcher.get_error())}")

    def advance(self, token: int) -> None:
        """See `Constraint`.

        Raises:
            GrammarError: a token that is not allowed; the state stays.
        """
        if self._over or (self._grammar.ends[token] and self._matcher.is_accepting()):
            if not self._grammar.ends[token]:
                raise GrammarError(f"token {token} after the end of what the grammar allows")
            self._over += 1
            return
        taken = self._matcher.try_consume_tokens([token])
        if self._matcher.is_error():
            self._again()
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
            self._again()

    def _again(self) -> None:
        """Build the state of `_tokens`; if that fails the matcher is in error."""
        self._mask = None
        self._matcher = self._grammar.matcher(fresh=True)
        self._matcher.consume_tokens(self._tokens)

    def forced(self) -> tuple[int, ...]:
        """See `Constraint`: the only bytes that can follow, as the tokenizer would split them."""
        if self._over or not self._forces or self._matcher.is_error():
            return ()
        tokens = self._matcher.compute_ff_tokens()
        if self._matcher.is_error():  # a guess must not end what verification would go on with
            self._forces = False
            self._again()
            return ()
        return tuple(tokens[:_MAX_FORCED])


def message(text: str) -> str:
    """The library's message in one line of reasonable length."""
    line = " ".join(text.replace("<non-verbose/>", "").split())
    if line in ("NoExtensionBias", "NoExtension"):
        line = "it allows no reply at all"
    return line if len(line) <= 400 else line[:400] + " ..."
