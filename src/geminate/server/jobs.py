"""What goes into the service and comes out of it: jobs, pieces of their answers, and the ticket in between."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.sequence import Stats
from geminate.grammar.compiler import Grammar
from geminate.params import ResolvedSampling, SamplingParams
from geminate.text.reply import Reply, ReplyDelta

Origin = Literal["target", "drafter", "copied", "forced"]
LEAST_GAP = 0.005  # seconds between two batches of pieces of one job


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request on its way to the engine.

    Attributes:
        prompt_ids: token ids.
        speculation: as `parse_speculation` gives it.
        n: answers to the same prompt, each with noise of its own under one seed.
        grammar: what the answers must keep to.
        make_reply: makes a fresh parser for each answer; it is told tokens in the engine's thread.
        timeout_s: seconds after which the job fails, waiting included; None: never.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    make_reply: Callable[[], Reply]
    speculation: Literal["auto", "ngram"] | int = "auto"
    n: int = 1
    grammar: Grammar | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPiece:
    """One emitted token: where it came from, and its own text, specials included (empty within a run of bytes)."""

    id: int
    origin: Origin
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one answer said in one round; the last one has a finish_reason and the statistics."""

    choice: int
    deltas: list[ReplyDelta]
    tokens: list[TokenPiece]
    drafted: int
    accepted: int
    finish_reason: Literal["stop", "length"] | None = None
    stats: Stats | None = None


def merged(pieces: list[tuple[int, Piece]]) -> list[tuple[int, Piece]]:
    """One piece for each answer: what it said in all of ``pieces``, its (number, piece) in order."""
    if len(pieces) == 1:
        return pieces
    by_answer: dict[int, list[Piece]] = {}
    for number, piece in pieces:
        by_answer.setdefault(number, []).append(piece)
    return [
        (
            number,
            Piece(
                choice=several[-1].choice,
                deltas=[delta for piece in several for delta in piece.deltas],
                tokens=[token for piece in several for token in piece.tokens],
                drafted=sum(piece.drafted for piece in several),
                accepted=sum(piece.accepted for piece in several),
                finish_reason=several[-1].finish_reason,
                stats=several[-1].stats,
            ),
        )
        for number, several in by_answer.items()
    ]


class Ticket:
    """The answers to one job: iterate over its pieces; `cancel` gives up.

    Raises (from the iteration):
        RequestTimeoutError: the job's time is over.
        EngineFailedError, ParameterError: what went wrong with this job.
    """

    def __init__(self, job: Job, sampling: ResolvedSampling, forget: Callable[[Ticket], None]) -> None:
        self.job, self.sampling = job, sampling
        self.arrived = time.perf_counter()
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pieces: deque[Piece | BaseException] = deque()
        self._ready = asyncio.Event()
        self._unfinished = job.n
        self._woken = False
        self.closed = False

    @property
    def seed(self) -> int:
        """What seeded the noise."""
        return self.sampling.seed

    @property
    def deadline(self) -> float:
        """When the job's time is over."""
        return math.inf if self.job.timeout_s is None else self.arrived + self.job.timeout_s

    def put(self, items: list[Piece | BaseException]) -> None:
        """Hand pieces over; called in the engine's thread."""
        with self._lock:
            self._pieces.extend(items)
            wake = not self._woken and not self.closed
            self._woken = True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:  # the loop is gone, and nobody listens any more
                self.closed = True

    def cancel(self) -> None:
        """Give up, in the event loop; memory is free within a round, the iteration ends.

        Calling it again, or after the end, does nothing.
        """
        if not self.closed:
            self.closed = True
            self._ready.set()
            self._forget(self)

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """Pieces as they come, all that are there at once."""
        last = -math.inf
        try:
            while self._unfinished and not self.closed:
                await self._ready.wait()
                # A small model makes thousands of pieces a second; handing each over would cost more than making it.
                early = last + LEAST_GAP - time.perf_counter()
                if early > 0:
                    await asyncio.sleep(early)
                last = time.perf_counter()
                with self._lock:
                    items = list(self._pieces)
                    self._pieces.clear()
                    self._ready.clear()
                    self._woken = False
                pieces: list[Piece] = []
                for item in items:
                    if isinstance(item, BaseException):
                        if pieces:
                            yield pieces
                        raise item
                    pieces.append(item)
                    self._unfinished -= item.finish_reason is not None
                if pieces:
                    yield pieces
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for pieces in self.batches():
            for piece in pieces:
                yield piece
