"""Looking at a connection without reading from it."""

from __future__ import annotations

import select
import sys


def has_input(fd: int) -> bool:
    """Whether a socket has something to read and its peer is still there.

    Windows does not tell a peer that has closed its side from one that has sent something.
    """
    if sys.platform == "win32":
        return bool(select.select([fd], [], [], 0)[0])
    gone = getattr(select, "POLLRDHUP", 0) | select.POLLHUP
    poll = select.poll()
    poll.register(fd, select.POLLIN | gone)
    return any(found & select.POLLIN and not found & gone for _, found in poll.poll(0))
