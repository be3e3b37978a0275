"""The server's socket, and uvicorn with Geminate's limits on connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from geminate.errors import BackendError
from geminate.server.http.limits import timed_protocol
from geminate.server.http.logs import log_left_out
from geminate.server.settings import Settings

BACKLOG = 2048
ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before others are read: more would starve those that have something to say."""
AFTER_DRAIN_S = 5
"""Time allowed for sending the last bytes of the last responses."""


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers; ours drain first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has set it to what it accepts at once

    async def on_tick(self, counter: int) -> bool:
        log_left_out()
        return await super().on_tick(counter)

    def refuse(self) -> None:
        """Accept no further connections; the open ones go on."""
        for server in self.servers:
            server.close()


def bind(settings: Settings, *, shared: bool = False) -> socket.socket:
    """A socket that listens on the settings' host and port.

    Args:
        shared: whether a successor may listen on the same port before this process has ended.

    Raises:
        BackendError: the address cannot be bound.
    """
    host = settings.host.strip("[]")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared and hasattr(socket, "SO_REUSEPORT"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # before "listening" is logged
    except OSError as error:
        raise BackendError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from error
    listener.set_inheritable(False)
    return listener


def make_server(app: ASGIApp, settings: Settings) -> Server:
    """The server of an application; its `serve` takes the socket of `bind`."""
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        workers=1,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=cast(int, settings.idle_seconds),
        timeout_graceful_shutdown=AFTER_DRAIN_S,
    )
    return Server(config)
