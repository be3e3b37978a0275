"""Whether the drafter still fits what is asked of it: accepted draft tokens now, against those when it was made.

A round with k draft tokens of the drafter is expected to accept sum(survival[:k]) of them, where survival[i] is the
share of rounds whose draft token i was accepted on the prompts held out in its training. Draft lengths are chosen where
they pay, so what is accepted is rather more than that; if it is clearly less, texts or weights are others than it
learned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from geminate.params import MAX_DRAFT
from geminate.server.metrics import Reading

BLOCK = 256  # rounds that are counted together
BLOCKS = 16  # that count: the last 4,096 rounds
LEAST = 4 * BLOCK  # rounds that say something
LOW, FINE = 0.8, 0.9  # of what is expected: below it is said, above it is taken back


@dataclass(slots=True)
class _Block:
    rounds: int = 0
    expected: float = 0.0
    accepted: int = 0


class AcceptanceWatch:
    """Counts the rounds of one model's drafter.

    Args:
        survival: shares of accepted draft tokens by position when the drafter was made; None: nobody knows.
        on_change: called with a line when acceptance has fallen, and when it is back.
    """

    def __init__(self, survival: Sequence[float] | None, on_change: Callable[[str], None]) -> None:
        self._expected = None if not survival else _sums(survival)
        self._on_change = on_change
        self._blocks: deque[_Block] = deque([_Block()], maxlen=BLOCKS)
        self.fallen = False

    def add(self, drafted: int, accepted: int) -> None:
        """A round with a draft of the drafter."""
        block = self._blocks[-1]
        block.rounds += 1
        block.accepted += accepted
        if self._expected is not None:
            block.expected += self._expected[min(drafted, MAX_DRAFT)]
        if block.rounds >= BLOCK:
            self._judge()
            self._blocks.append(_Block())

    @property
    def rounds(self) -> int:
        """Rounds that count."""
        return sum(block.rounds for block in self._blocks)

    @property
    def per_round(self) -> float:
        """Accepted draft tokens of a round, of those that count."""
        return sum(block.accepted for block in self._blocks) / max(1, self.rounds)

    @property
    def ratio(self) -> float | None:
        """Accepted draft tokens over expected ones; None where too few rounds count, or nobody knows what to expect."""
        expected = sum(block.expected for block in self._blocks)
        if self._expected is None or self.rounds < LEAST or expected <= 0:
            return None
        return sum(block.accepted for block in self._blocks) / expected

    @property
    def note(self) -> str | None:
        """What to say while acceptance is low."""
        if not self.fallen or self.ratio is None:
            return None
        return (
            f"the drafter has {100 * self.ratio:.0f} % of the accepted tokens that it had when it was made "
            f"({self.per_round:.2f} a round in the last {self.rounds:,}): texts or weights have changed; retrain it: "
            "geminate train drafter"
        )

    def readings(self) -> Iterator[Reading]:
        """For the metrics."""
        yield Reading(
            name="spec_decode_recent_accepted_per_draft",
            help="Accepted draft tokens of a draft of the drafter, in the last rounds.",
            value=self.per_round,
        )
        if self.ratio is not None:
            yield Reading(
                name="spec_decode_acceptance_ratio",
                help="Accepted draft tokens of the last rounds over those expected of the drafter when it was made.",
                value=self.ratio,
            )
        yield Reading(
            name="spec_decode_drafter_outdated",
            help="1 while the drafter accepts clearly less than when it was made: retrain it.",
            value=float(self.fallen),
        )

    def _judge(self) -> None:
        ratio = self.ratio
        if ratio is None:
            return
        if not self.fallen and ratio < LOW:
            self.fallen = True
            self._on_change(self.note or "")
        elif self.fallen and ratio > FINE:
            self.fallen = False
            self._on_change("the drafter's acceptance is back at what it was when it was made")


def _sums(survival: Sequence[float]) -> list[float]:
    """Expected accepted tokens by draft length 0..MAX_DRAFT; behind the known positions survival falls on as before."""
    known = list(survival)
    fall = min(1.0, known[-1] / known[-2]) if len(known) > 1 and known[-2] > 0 else known[-1]
    while len(known) < MAX_DRAFT:
        known.append(known[-1] * fall)
    sums = [0.0]
    for share in known[:MAX_DRAFT]:
        sums.append(sums[-1] + share)
    return sums
