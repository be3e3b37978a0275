"""Output items of recent responses, in memory, so that a client's next request may name them by ``item_reference``."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

_OVERHEAD = 200  # bytes of an entry beside its text


class KeptItems:
    """The most recent items up to a number of bytes, each for the client that it was made for.

    Args:
        limit: bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._items: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def keep(self, client: str, output: Sequence[dict[str, Any]]) -> None:
        """Keep the items of a response; the ones used longest ago give way."""
        for item in output:
            data = json.dumps(item, separators=(",", ":")).encode("ascii")
            if len(data) + _OVERHEAD > self.limit:
                continue
            self._items[client, item["id"]] = data
            self.used += len(data) + _OVERHEAD
            while self.used > self.limit:
                self.used -= len(self._items.popitem(last=False)[1]) + _OVERHEAD

    def find(self, client: str, id: str) -> bytes | None:
        """An item as JSON, if it is still kept."""
        data = self._items.get((client, id))
        if data is not None:
            self._items.move_to_end((client, id))
        return data
