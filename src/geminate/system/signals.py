"""Signals that end a server, and the one that makes it read its keys again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping

ENDS: tuple[signal.Signals, ...]
HANG_UP: signal.Signals | None
if sys.platform == "win32":
    ENDS, HANG_UP = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK), None
else:
    ENDS, HANG_UP = (signal.SIGINT, signal.SIGTERM), signal.SIGHUP


def on_signals(loop: asyncio.AbstractEventLoop, calls: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Call these in the event loop when a signal arrives; for the main thread."""
    for number, call in calls.items():
        if sys.platform == "win32":  # whose event loops know no signals
            signal.signal(number, lambda *_, call=call: loop.call_soon_threadsafe(call))
        else:
            loop.add_signal_handler(number, call)
