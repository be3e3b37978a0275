"""Refused requests and new grammars cost their client time: a flood of them would slow everybody else down."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque

FREE = 50  # refusals of one client within a second that are answered at once
DELAY_S = 0.1
SHARE = 0.1  # of the interpreter's time for a client's refusals and grammars, while others are served
BURST_S = 0.5  # of such time that may be used at once
DEAREST_S = 0.02  # that one refusal counts: a longer one has waited for others most of the time
LONGEST_S = 1.0
_CLIENTS = 1_000  # that are remembered


class _Account:
    """What one client has cost lately.

    Attributes:
        times: of the latest refusals. left: seconds that may be used at once, as of ``at``.
    """

    __slots__ = ("at", "left", "times")

    def __init__(self, now: float) -> None:
        self.times: deque[float] = deque(maxlen=FREE)
        self.left, self.at = BURST_S, now

    def refused(self, now: float, seconds: float) -> float:
        """Count a refusal that took ``seconds``; for how long it is held back."""
        many = len(self.times) == FREE and now - self.times[0] < 1.0
        self.times.append(now)
        return max(DELAY_S if many else 0.0, self.used(now, min(seconds, DEAREST_S)))

    def used(self, now: float, seconds: float) -> float:
        """Count ``seconds`` of the interpreter; for how long the client waits now, 0 or less for not at all."""
        self.left = min(BURST_S, self.left + SHARE * (now - self.at)) - seconds
        self.at = now
        return min(-self.left / SHARE, LONGEST_S)


class Costs:
    """Counts what the requests of every client cost, and holds further ones back for a moment.

    Attributes:
        inside: requests that are not answered yet. While there is one alone, only the number of its refusals counts.
    """

    def __init__(self) -> None:
        self.inside = 0
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    async def refused(self, client: str, seconds: float) -> None:
        """Wait before an answer 400 to 499 to ``client``, if it has had many, or dear ones, lately.

        Args:
            seconds: that the refused request took.
        """
        now = time.monotonic()
        await _pause(self._account(client, now).refused(now, 0.0 if self.inside <= 1 else seconds))

    async def used(self, client: str, seconds: float) -> None:
        """Wait after work for ``client`` that held the interpreter for ``seconds``, if there was much of it lately."""
        now = time.monotonic()
        await _pause(self._account(client, now).used(now, 0.0 if self.inside <= 1 else seconds))

    def _account(self, client: str, now: float) -> _Account:
        account = self._accounts.setdefault(client, _Account(now))
        self._accounts.move_to_end(client)
        while len(self._accounts) > _CLIENTS:
            self._accounts.popitem(last=False)
        return account


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
