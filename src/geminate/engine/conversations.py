"""KV caches of conversations between their turns, by name."""

from __future__ import annotations

from collections.abc import Callable

from geminate.kv.cache import KVCache


class Conversations:
    """Keeps the cache of every named conversation; a name's next turn starts from what its tokens share with it.

    Args:
        new_cache: makes an empty cache.
    """

    def __init__(self, new_cache: Callable[[], KVCache]) -> None:
        self._new_cache = new_cache
        self._kept: dict[str, tuple[KVCache, list[int]]] = {}

    def take(self, name: str | None, tokens: list[int]) -> KVCache:
        """A cache that holds a strict prefix of ``tokens``: the conversation's, rolled back, or an empty one.

        While a turn runs its conversation has no cache here, so a second turn beside it starts from an empty one.
        """
        if name is None or name not in self._kept:
            return self._new_cache()
        cache, known = self._kept.pop(name)
        # The last known token is never in the cache; a turn that was interrupted in the middle of a pass leaves the row
        # of a rejected draft token in its place.
        limit = min(len(tokens) - 1, cache.length, len(known) - 1)
        common = 0
        while common < limit and tokens[common] == known[common]:
            common += 1
        try:
            cache.truncate(common)
        except ValueError:  # a sliding layer has lost rows that this branch needs
            return self._new_cache()
        return cache

    def keep(self, name: str, cache: KVCache, tokens: list[int]) -> None:
        """A turn has ended: ``cache`` holds positions of ``tokens``."""
        self._kept[name] = (cache, tokens)

    def forget(self, name: str) -> None:
        """Free a conversation's cache; unknown names are fine."""
        self._kept.pop(name, None)
