"""Refused requests cost their client time: a flood of them would take the interpreter from everybody else's streams."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque

FREE = 50  # refusals of one client within a second that are answered at once
DELAY_S = 0.1
SHARE = 0.1  # of the interpreter's time for a client's refusals, while others are served
BURST_S = 0.5  # of such time that may be used at once
DEAREST_S = 0.02  # that one refusal counts: a longer one has waited for others most of the time
LONGEST_S = 1.0
_CLIENTS = 1_000  # that are remembered


class _Account:
    """The refusals of one client.

    Attributes:
        times: of the latest ones. left: seconds that may be used at once, as of ``at``.
    """

    __slots__ = ("at", "left", "times")

    def __init__(self, now: float) -> None:
        self.times: deque[float] = deque(maxlen=FREE)
        self.left, self.at = BURST_S, now

    def wait(self, now: float, seconds: float) -> float:
        """Count a refusal; for how long it is held back."""
        many = len(self.times) == FREE and now - self.times[0] < 1.0
        self.times.append(now)
        self.left = min(BURST_S, self.left + SHARE * (now - self.at)) - min(seconds, DEAREST_S)
        self.at = now
        return max(DELAY_S if many else 0.0, min(-self.left / SHARE, LONGEST_S))


class Refusals:
    """Counts the answers 400 to 499 of every client and what they cost, and holds further ones back for a moment."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    async def pause(self, client: str, seconds: float, *, alone: bool) -> None:
        """Wait before a refusal is sent to ``client``, if it has had many, or dear ones, lately.

        Args:
            seconds: that the refused request took. alone: nobody else is served, so only their number counts.
        """
        now = time.monotonic()
        account = self._accounts.setdefault(client, _Account(now))
        self._accounts.move_to_end(client)
        while len(self._accounts) > _CLIENTS:
            self._accounts.popitem(last=False)
        wait = account.wait(now, 0.0 if alone else seconds)
        if wait > 0:
            await asyncio.sleep(wait)
