"""The state of a grammar in one completion; it can be advanced along a draft and rolled back.

What a grammar allows is computed by its `Follower`, here or in a process apart; the state asks ahead and keeps the
answers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geminate.decoding.constraint import MaskPendingError
from geminate.errors import GrammarError
from geminate.grammar.followers import FURTHER, FailedFollower, Follower
from geminate.grammar.matching import Answer

PATIENCE_S = 0.01  # until an engine says otherwise
_SOON = 16  # tokens
_KEPT = 32  # positions whose masks are kept for a rollback


class Grammar:
    """A compiled grammar, created by `GrammarCompiler`.

    Attributes:
        source: the grammar as text, from which `GrammarCompiler.start` can recreate it.
        alive: whether it can still be followed. on_failure: told why a completion could not follow it.
        ends: bool [vocab_size], the end-of-sequence tokens.
    """

    def __init__(
        self,
        follower: Callable[[], Follower],
        source: str,
        vocab_size: int,
        eos_ids: Sequence[int],
        *,
        alive: Callable[[], bool] = lambda: True,
        on_failure: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.source = source
        self.follower, self.alive, self.on_failure = follower, alive, on_failure
        self.vocab_size = vocab_size
        self.ends: NDArray[np.bool_] = np.zeros(vocab_size, dtype=np.bool_)
        self.ends[list(eos_ids)] = True
        self.ends.flags.writeable = False

    def start(self) -> GrammarState:
        """A fresh state, for one completion."""
        return GrammarState(self)


@dataclass(eq=False, slots=True)
class _Place:
    """A position in the completion, after ``token``.

    Attributes:
        asked, asked_forced: whether its mask, and the continuation forced there, were asked for.
        bits: the mask, a bit a token. error: why there is none.
        next: positions behind it that were visited, by token.
    """

    token: int = -1
    asked: bool = False
    asked_forced: bool = False
    bits: bytes | None = None
    accepting: bool = False
    error: str | None = None
    forced: tuple[int, ...] | None = None
    mask: NDArray[np.bool_] | None = None
    next: dict[int, _Place] = field(default_factory=dict)


class GrammarState:
    """A `Constraint` backed by a `Follower`."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._follower = grammar.follower()
        self._path = [_Place()]
        self._known = [self._path[0]]  # the follower's path
        self._common = 1  # leading positions of both
        self._over = 0  # end tokens after the text was complete; not passed to the follower
        self._questions: deque[tuple[list[_Place], _Place | None]] = deque()
        self._mean = 0.0  # recent seconds of an answer
        self._patience = self._left = PATIENCE_S
        self._ended: GrammarError | None = None
        self._guesses = False  # whether drafts of forced text are made

    def ready(self) -> bool:
        """See `Constraint`."""
        here = self._path[-1]
        if self._over or here.bits is not None or here.error is not None:
            return True
        self.prepare()
        self._receive(here, 0.0)
        return here.bits is not None or here.error is not None or self._mean <= self._patience

    def be_patient(self, seconds: float) -> None:
        """See `Constraint`."""
        self._patience = self._left = seconds

    def _may_wait(self) -> float:
        """Seconds; none where masks have been taking longer than a round waits."""
        return max(0.0, self._left) if self._mean <= self._patience else 0.0

    def wait(self, seconds: float) -> None:
        """See `Constraint`."""
        if not self.ready():
            self._receive(self._path[-1], seconds)

    def prepare(self, tokens: Sequence[int] = ()) -> None:
        """See `Constraint`."""
        if self._over:
            return
        taken = 0
        for token in tokens:
            if self._grammar.ends[token]:
                break
            self._push(token)
            taken += 1
        self._ask(before=taken, forced=self._guesses and not tokens)
        if taken:
            self._pop(taken)

    def allowed(self) -> NDArray[np.bool_]:
        """See `Constraint`; bool [vocab_size].

        Raises:
            GrammarError: the grammar has become too complex to follow, or allows no token here.
            MaskPendingError: the mask is still being computed.
        """
        if self._over:
            return self._grammar.ends
        here = self._path[-1]
        if here.mask is None:
            self._complete(here)
            if here.bits is None:
                raise self._error(here)
            raw = np.frombuffer(here.bits, dtype=np.uint8)
            mask = np.unpackbits(raw, count=self._grammar.vocab_size, bitorder="little").view(np.bool_)
            if not here.accepting:  # a grammar that names tokens by number may seem to allow an end in the middle
                mask &= ~self._grammar.ends
            if not mask.any():
                raise GrammarError("the grammar allows no token here, so the completion cannot continue")
            here.mask = mask
        return here.mask

    def advance(self, token: int) -> None:
        """See `Constraint`.

        Raises:
            GrammarError: a token that is not allowed; the state is unchanged.
        """
        if self._over:
            if not self._grammar.ends[token]:
                raise GrammarError(f"token {token} after the end of what the grammar allows")
            self._over += 1
            return
        here = self._path[-1]
        if self._grammar.ends[token]:
            self._complete(here)
            if here.accepting:
                self._over = 1
                return
        if here.error is not None:
            raise self._error(here)
        if here.mask is not None and not here.mask[token]:
            raise GrammarError(f"token {token} is not what the grammar allows here")
        self._push(token)

    def rollback(self, count: int) -> None:
        """See `Constraint`."""
        if not 0 <= count <= self._over + len(self._path) - 1:
            raise GrammarError(f"cannot take back {count} of {self._over + len(self._path) - 1} tokens")
        ended = min(count, self._over)
        self._over -= ended
        if count > ended:
            self._pop(count - ended)

    def forced(self) -> tuple[int, ...]:
        """See `Constraint`: the only possible continuation, tokenized as the tokenizer would."""
        if self._over:
            return ()
        self._guesses = True
        here = self._path[-1]
        if here.forced is None:
            self._ask(forced=True)
            self._receive(here, self._may_wait(), forced=True)
        return here.forced or ()

    def fail(self, why: str) -> None:
        """See `Constraint`: a grammar that fails soon would do so in every completion."""
        if why.startswith(FURTHER) and (len(self._path) <= _SOON or not self._grammar.alive()):
            self._grammar.on_failure(why.removeprefix(FURTHER))

    def close(self) -> None:
        """See `Constraint`."""
        self._follower.close()

    def _push(self, token: int) -> None:
        here = self._path[-1]
        place = here.next.get(token)
        if place is None:
            place = here.next[token] = _Place(token)
        self._path.append(place)
        length = len(self._path)
        if self._common == length - 1 and len(self._known) >= length and self._known[length - 1] is place:
            self._common = length
        if length > _KEPT:  # a rollback as far as that asks again
            old = self._path[-_KEPT]
            old.bits = old.mask = None
            old.asked = False
            old.next = {self._path[1 - _KEPT].token: self._path[1 - _KEPT]}

    def _pop(self, count: int) -> None:
        del self._path[len(self._path) - count :]
        self._common = min(self._common, len(self._path))

    def _ask(self, *, before: int = 0, forced: bool = False) -> None:
        """Ask for what is missing at the end of the path.

        Args:
            before: how many positions before the last one are wanted as well.
            forced: whether the continuation forced at the last one is wanted.
        """
        path = self._path
        length, here = len(path), path[-1]
        forced = forced and not here.asked_forced
        first = length
        while first >= length - before and not path[first - 1].asked:
            first -= 1
        if first == length and not forced:
            return
        keep = min(self._common - 1, first)
        for place in path[first:]:
            place.asked = True
        here.asked_forced |= forced
        self._questions.append((path[first:], here if forced else None))
        self._follower.ask(keep, [place.token for place in path[keep + 1 :]], first, forced=forced)
        del self._known[keep + 1 :]
        self._known += path[keep + 1 :]
        self._common = length

    def _complete(self, here: _Place) -> None:
        """See that a position's mask, or an error, is known.

        Raises:
            MaskPendingError: it does not come soon.
        """
        if here.bits is not None or here.error is not None:
            return
        if not here.asked:
            self._ask()
        self._receive(here, self._may_wait())
        if here.bits is None and here.error is None:
            raise MaskPendingError

    def _receive(self, here: _Place, seconds: float, *, forced: bool = False) -> None:
        """Take in answers until ``here`` is known, for ``seconds`` at most."""
        began = time.monotonic()
        while self._questions and ((here.forced if forced else here.bits) is None and here.error is None):
            try:
                answer = self._follower.receive(max(0.0, began + seconds - time.monotonic()))
            except GrammarError as error:
                self._fail(error)
                return
            if answer is None:
                self._mean = max(self._mean, 2 * (time.monotonic() - began))
                break
            self._take(answer)
        self._left -= time.monotonic() - began

    def _take(self, answer: Answer) -> None:
        places, forced = self._questions.popleft()
        self._mean += 0.25 * (answer.seconds - self._mean)
        for place, (accepting, bits) in zip(places, answer.places, strict=False):
            place.accepting, place.bits = accepting, bits
        for place in places[len(answer.places) :]:
            place.error = answer.error or "it cannot be followed"
        if forced is not None:
            forced.forced = answer.forced or ()

    def _error(self, place: _Place) -> GrammarError:
        return self._ended or GrammarError(f"{FURTHER}{place.error}")

    def _fail(self, error: GrammarError) -> None:
        """Nothing more is asked: every position without a mask has the error."""
        why = str(error).removeprefix(FURTHER)
        self._ended = error
        self._questions.clear()
        self._follower.close()
        self._follower = FailedFollower(error)
        for place in self._path:
            if place.bits is None:
                place.error = why
