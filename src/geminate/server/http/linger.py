"""Closing a connection whose peer is still sending, so that the peer gets the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

LINGER_S = 0.5
"""Time for a client to read the answer to a request that was not read to its end."""


class LingeringTransport:
    """A transport that, where the peer may still be sending, only ends its own side when it is closed.

    Closing it whole would reset the connection as soon as more comes, and the peer would lose the answer. The rest
    follows when the peer closes, or after `LINGER_S`.

    Args:
        cut_off: whether the peer may be sending something that nobody is going to read.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, cut_off: Callable[[], bool]
    ) -> None:
        self._transport, self._loop, self._cut_off = transport, loop, cut_off
        self._end: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingering(self) -> bool:
        """Whether it is closed but for the peer's side."""
        return self._end is not None

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Send what is written, then close."""
        if self.lingering:
            return
        if self._transport.is_closing() or not self._cut_off():
            self._transport.close()
            return
        self._end = self._loop.call_later(LINGER_S, self._over)
        self._transport.resume_reading()
        with contextlib.suppress(OSError):  # the peer has just reset the connection
            self._transport.write_eof()

    def _over(self) -> None:
        if self._transport.get_write_buffer_size():  # the time without reading is limited elsewhere
            self._end = self._loop.call_later(LINGER_S, self._over)
        else:
            self._transport.abort()

    def lost(self) -> None:
        """The connection is gone."""
        if self._end is not None:
            self._end.cancel()
