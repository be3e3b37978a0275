"""Who may hold a connection: connections on which no request was accepted yet get few places, and give way."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Protocol

from geminate.server.settings import Settings

MOST_LOOKS = 16
"""Connections that are looked at to find one that gives way; each look is a system call."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv6Network


class Connection(Protocol):
    """What the places know of a connection.

    Attributes:
        client: the peer's address and port. accepted: whether a request on it has passed the key check.
    """

    client: tuple[str, int] | None
    accepted: bool

    def may_speak(self) -> bool:
        """Whether its first bytes have come and were not looked at yet, which may hold a valid key."""

    def give_way(self) -> None:
        """Close it at once."""


class Places:
    """The open connections of a server, and which of them a new one replaces.

    A connection is a stranger until a request on it was accepted. Strangers have half of the places; the oldest gives
    way to a new one, so that connections that say nothing shut nobody out.
    """

    def __init__(self, settings: Settings) -> None:
        self._total = settings.max_connections
        self._for_strangers = max(1, self._total // 2)
        self._per_address = settings.max_connections_per_address or max(1, self._total // 4)
        self._addresses: dict[Connection, Address | None] = {}
        self._strangers: dict[Connection, None] = {}  # the oldest first
        self._count: Counter[Address] = Counter()

    def enter(self, connection: Connection) -> bool:
        """Whether a new connection has a place; another may have been closed for it."""
        address = counted_address(connection.client)
        crowded = address is not None and self._count[address] >= self._per_address
        full = len(self._addresses) >= self._total
        if crowded or full or len(self._strangers) >= self._for_strangers:
            other = self._oldest(address if crowded else None)
            if other is not None:
                self.leave(other)
                other.give_way()
            elif crowded or full:
                return False
        self._addresses[connection] = address
        self._strangers[connection] = None
        if address is not None:
            self._count[address] += 1
        return True

    def _oldest(self, address: Address | None) -> Connection | None:
        """The oldest stranger, of this address if one is given, but for those that `may_speak`."""
        looks = 0
        for connection in self._strangers:
            if address is not None and self._addresses[connection] != address:
                continue
            if not connection.may_speak():
                return connection
            looks += 1
            if looks == MOST_LOOKS:
                break
        return None

    def judged(self, connection: Connection) -> None:
        """A request on this connection was accepted or refused; see its ``accepted``."""
        if connection.accepted:
            self._strangers.pop(connection, None)
        elif connection in self._addresses:
            self._strangers[connection] = None

    def leave(self, connection: Connection) -> None:
        """The connection is closed; more than once is fine."""
        self._strangers.pop(connection, None)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]


def counted_address(client: tuple[str, int] | None) -> Address | None:
    """The address that connections are counted by: IPv6 by its /64 network, None (not counted) for this machine."""
    if client is None:
        return None
    try:
        found = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return None
    return ipaddress.IPv6Network((found, 64), strict=False) if isinstance(found, ipaddress.IPv6Address) else found
