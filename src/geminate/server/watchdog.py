"""How late the event loop is: whatever computes in it, or holds the interpreter, delays every client.

The same task forgets what is idle, and gives back memory that large requests have used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from geminate.server.http.heap import trim
from geminate.server.http.logs import log
from geminate.server.metrics import Metrics

TICK_S = 0.02
WARN_S = 0.25
QUIET_S = 10.0  # between two warnings
GRAMMAR_IDLE_S = 120.0


async def watch(metrics: Metrics, drop_idle: Callable[[float], None]) -> None:
    """Measure the lag of the running event loop until cancelled; export it, and log what a client would notice.

    Args:
        drop_idle: called now and then, so that what nobody uses any more is forgotten without a request.
    """
    loop = asyncio.get_running_loop()
    silent_until, next_drop = 0.0, loop.time() + QUIET_S
    while True:
        expected = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        lag = max(0.0, loop.time() - expected)
        metrics.lag(lag)
        if loop.time() > next_drop:
            next_drop = loop.time() + QUIET_S
            drop_idle(GRAMMAR_IDLE_S)
            await asyncio.to_thread(trim)
        if lag > WARN_S and time.monotonic() > silent_until:
            silent_until = time.monotonic() + QUIET_S
            log("warning", "the event loop was blocked", seconds=round(lag, 3))
