"""Who computes what a grammar allows: the calling thread, or the grammar's process."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from geminate.errors import GrammarBusyError, GrammarError
from geminate.grammar.matching import Answer, CompiledGrammar, Matching

if TYPE_CHECKING:
    if sys.platform == "win32":
        GrammarProcess: TypeAlias = Any
    else:
        from geminate.grammar.host import GrammarProcess

STEP_SECONDS = 2.0  # for one answer
BUDGET_S, BUDGET_PER_MASK_S = 2.0, 0.02  # processor time that the masks of one completion may take
SLOW_S = 0.003  # the mean time of an answer from which on its process yields to everybody else
LATE_S = 0.02  # an answer that takes as long has the same effect
ABANDONED_S = 0.25  # what is computed for longer than this is stopped when nobody waits for it
FURTHER = "the grammar cannot be followed further: "


class Follower(Protocol):
    """Follows one completion through a compiled grammar."""

    def ask(self, keep: int, tokens: Sequence[int], first: int, *, forced: bool) -> None:
        """See `Matching.follow`; the answer comes by `receive`, in the order of the questions."""
        ...

    def receive(self, timeout: float) -> Answer | None:
        """The next answer, waiting up to ``timeout`` seconds; None if it has not come.

        Raises:
            GrammarError: none will come.
        """
        ...

    def close(self) -> None:
        """No more questions; what is being computed is not needed."""
        ...


class LocalFollower:
    """Follows in the calling thread."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._matching = Matching(grammar)
        self._answers: deque[Answer] = deque()

    def ask(self, keep: int, tokens: Sequence[int], first: int, *, forced: bool) -> None:
        """See `Follower`."""
        self._answers.append(self._matching.follow(keep, tokens, first, forced=forced))

    def receive(self, timeout: float) -> Answer | None:
        """See `Follower`."""
        return self._answers.popleft() if self._answers else None

    def close(self) -> None:
        """See `Follower`."""


class RemoteFollower:
    """Follows in the grammar's process; the mask of an engine's pass is computed while the pass runs."""

    def __init__(self, process: GrammarProcess) -> None:
        self._process = process
        self._answers: deque[Answer] = deque()
        self._asked: deque[float] = deque()
        self._number = process.join(self._answers.append)
        self._spent, self._mean, self._most = 0.0, 0.0, BUDGET_S
        self._closed = False

    def ask(self, keep: int, tokens: Sequence[int], first: int, *, forced: bool) -> None:
        """See `Follower`."""
        self._asked.append(time.monotonic())
        self._process.follow(self._number, keep, tokens, first, forced)

    def receive(self, timeout: float) -> Answer | None:
        """See `Follower`."""
        until = time.monotonic() + timeout
        while not self._answers:
            if self._process.failure is not None:
                kind = GrammarBusyError if self._process.gave_way else GrammarError
                raise kind(f"{FURTHER}{self._process.failure}")
            left = until - time.monotonic()
            self._process.receive(max(0.0, left))
            if not self._answers and time.monotonic() >= until:
                waited = self._waited()
                if waited > LATE_S:
                    self._process.yield_processor()
                if waited > STEP_SECONDS:
                    self._process.end(f"one token took more than {STEP_SECONDS:g} s; make it simpler")
                    continue
                return None
        self._asked.popleft()
        answer = self._answers.popleft()
        self._spent += answer.seconds
        self._mean += 0.25 * (answer.seconds - self._mean)
        if self._mean > SLOW_S:
            self._process.yield_processor()
        self._most += BUDGET_PER_MASK_S * len(answer.places)
        if self._spent > self._most:
            raise GrammarError(
                f"{FURTHER}its masks took more than {self._most:.1f} s of processor time; make it simpler"
            )
        return answer

    def _waited(self) -> float:
        """Seconds since the oldest question without an answer."""
        return time.monotonic() - self._asked[0] if len(self._asked) > len(self._answers) else 0.0

    def close(self) -> None:
        """See `Follower`."""
        if not self._closed:
            self._closed = True
            self._process.leave(self._number, busy=self._waited() > ABANDONED_S)


class FailedFollower:
    """The follower of a grammar that is not followed any more."""

    def __init__(self, error: GrammarError) -> None:
        self._error = error

    def ask(self, keep: int, tokens: Sequence[int], first: int, *, forced: bool) -> None:
        """See `Follower`."""

    def receive(self, timeout: float) -> Answer | None:
        """See `Follower`."""
        raise self._error

    def close(self) -> None:
        """See `Follower`."""
