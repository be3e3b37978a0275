"""Sets of tokens in Lark."""

from __future__ import annotations

from collections.abc import Iterable


def token_range(ids: Iterable[int], *, but: bool = False) -> str:
    """A Lark expression for any of these tokens, or with ``but`` for any other token."""
    return f"<[{'^' if but else ''}{','.join(str(token) for token in sorted(set(ids)))}]>"
