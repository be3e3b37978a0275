"""How far a prompt is, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from geminate.cli.bars import Bars

_T = TypeVar("_T")


class PromptBar:
    """How far a prompt is, on stderr until the first part of its answer is there; short prompts show nothing.

    Args:
        shown: False draws nothing.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._bars: Bars | None = None

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` tokens are read."""
        if self._bars is None:
            from geminate.cli.bars import Bars  # rich's take a while, and most prompts need none

            self._bars = Bars(counted=False, shown=self._shown)
            self._bars.start()
        self._bars.part("prompt", done, total, f"read {done:,} of {total:,} tokens")

    def end(self) -> None:
        """Remove it."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def before(self, parts: Iterable[_T]) -> Iterator[_T]:
        """The same parts; the bar ends with the first."""
        try:
            for part in parts:
                self.end()
                yield part
        finally:
            self.end()
