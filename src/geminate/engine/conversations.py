"""KV caches of conversations between their turns, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from geminate.engine.messages import EngineRequest
from geminate.kv.prefix_tree import ContentSpan, shared_length
from geminate.kv.store import KVStore


class Conversations:
    """Keeps the cache of every named conversation; a name's next turn starts from what its tokens share with it.

    Args:
        new_cache: makes an empty cache.
    """

    def __init__(self, new_cache: Callable[[], KVStore]) -> None:
        self._new_cache = new_cache
        self._kept: dict[str, tuple[KVStore, list[int], Sequence[ContentSpan]]] = {}

    def take(self, request: EngineRequest, tokens: list[int]) -> KVStore:
        """A cache that holds a strict prefix of ``tokens``: the conversation's, rolled back, or an empty one.

        While a turn runs its conversation has no cache here, so a second turn beside it starts from an empty one.
        """
        name = request.conversation
        if name is None or name not in self._kept:
            return self._new_cache()
        cache, known, contents = self._kept.pop(name)
        # The last known token is never in the cache; a turn that was interrupted in the middle of a pass leaves the row
        # of a rejected draft token in its place.
        shared = shared_length(tokens[:-1], request.contents, known[:-1], contents)
        try:
            cache.truncate(min(shared, cache.length))
        except ValueError:  # a sliding layer has lost rows that this branch needs
            return self._new_cache()
        return cache

    def keep(self, name: str, cache: KVStore, tokens: list[int], contents: Sequence[ContentSpan]) -> None:
        """A turn has ended: ``cache`` holds positions of ``tokens``."""
        self._kept[name] = (cache, tokens, contents)

    def forget(self, name: str) -> None:
        """Free a conversation's cache; unknown names are fine."""
        self._kept.pop(name, None)
