"""Refused requests cost their client time: a flood of them would take the interpreter from everybody else's streams."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque

FREE = 50  # refusals of one client within a second that are answered at once
DELAY_S = 0.1
_CLIENTS = 1_000  # that are remembered


class Refusals:
    """Counts the answers 400 to 499 of every client, and holds further ones back for a moment."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    async def pause(self, client: str) -> None:
        """Wait before the next refusal is sent to ``client``, if it has had many within a second."""
        now = time.monotonic()
        times = self._times.setdefault(client, deque(maxlen=FREE))
        self._times.move_to_end(client)
        while len(self._times) > _CLIENTS:
            self._times.popitem(last=False)
        many = len(times) == FREE and now - times[0] < 1.0
        times.append(now)
        if many:
            await asyncio.sleep(DELAY_S)
