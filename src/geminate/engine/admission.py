"""Whose turn it is: clients take turns, and small requests pass a large one that waits for memory, for a while."""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from geminate.engine.sequence import Sequence as Running
from geminate.errors import QueueFullError

PASS_S = 2.0  # how long others pass a sequence whose memory is not there
RESERVE = 4  # one place in so many is for clients that have few
_CLIENTS = 1_000  # that are remembered
_TRIES = 16  # sequences whose memory is looked for in one step


class Admission:
    """Remembers who began when, so that clients take turns.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began: OrderedDict[str, int] = OrderedDict()  # numbers of the latest beginnings
        self._numbers = itertools.count()

    def candidates(self, waiting: Iterable[Running], running: Iterable[Running]) -> Iterator[Running]:
        """Waiting sequences in the order in which they should begin.

        The next is one of the client with the fewest running sequences, and among those of the one who has waited
        longest since it began one; of one client the oldest. A sequence that was tried and is still waiting when the
        next one is asked for is passed by it, until it has waited `PASS_S` for its memory; one whose stored prompt is
        being read is passed without that.
        """
        counts = Counter(sequence.request.client for sequence in running)
        queues: dict[str, list[Running]] = {}
        for sequence in waiting:
            queues.setdefault(sequence.request.client, []).append(sequence)
        for _ in range(_TRIES):
            if not queues:
                return
            # The first of equals: the one who came first.
            client = min(queues, key=lambda name: (counts[name], self._began.get(name, -1)))
            sequence = queues[client].pop(0)
            if not queues[client]:
                del queues[client]
            yield sequence
            if sequence.begun:
                counts[client] += 1
                continue
            if sequence.finish_reason is not None or sequence.reading:
                continue
            now = self._clock()
            if sequence.blocked_since is None:
                sequence.blocked_since = now
            elif now - sequence.blocked_since > PASS_S:
                return

    def began(self, client: str) -> None:
        """A sequence of this client has begun."""
        self._began[client] = next(self._numbers)
        self._began.move_to_end(client)
        while len(self._began) > _CLIENTS:
            self._began.popitem(last=False)


def check_place(client: str, others: Sequence[str], places: int, running: int) -> None:
    """Refuse a request for which there is no place.

    Args:
        client: "" for one that is not known, which may have all places.
        others: the clients of the open requests. places: open requests that there may be, ``running`` of them at once.

    Raises:
        QueueFullError: all places are taken; or this client has so many that the rest is kept for others.
    """
    here = len(others)
    if here >= places:
        raise QueueFullError(
            f"the queue is full: {here} request{'s are' if here != 1 else ' is'} here, and {running} may run "
            f"(--max-running) and {places - running} wait (--max-waiting); try again later"
        )
    own = others.count(client) if client else 0
    most = places - places // RESERVE
    if own >= most:
        raise QueueFullError(
            f"{own} of your requests are here, and one client may have {most} of {places} places (--max-running plus "
            "--max-waiting); try again later"
        )
