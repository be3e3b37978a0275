"""How late the event loop is: whatever computes in it, or holds the interpreter, delays every client."""

from __future__ import annotations

import asyncio
import time

from geminate.server.http.logs import log
from geminate.server.metrics import Metrics

TICK_S = 0.02
WARN_S = 0.25
QUIET_S = 10.0  # between two warnings


async def watch(metrics: Metrics) -> None:
    """Measure the lag of the running event loop until cancelled; export it, and log what a client would notice."""
    loop = asyncio.get_running_loop()
    silent_until = 0.0
    while True:
        expected = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        lag = max(0.0, loop.time() - expected)
        metrics.lag(lag)
        if lag > WARN_S and time.monotonic() > silent_until:
            silent_until = time.monotonic() + QUIET_S
            log("warning", "the event loop was blocked", seconds=round(lag, 3))
