"""Stop strings in streamed text, wherever token boundaries fall."""

from __future__ import annotations

from collections.abc import Sequence

from geminate.errors import ParameterError


class _Pattern:
    """Knuth, Morris and Pratt 1977: ``matched`` is the longest prefix of ``text`` that ends the input."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0] * len(text)
        k = 0
        for i in range(1, len(text)):
            while k and text[i] != text[k]:
                k = self._fallback[k - 1]
            k += text[i] == text[k]
            self._fallback[i] = k

    def feed(self, char: str) -> bool:
        """One more character; True when the pattern is complete, which must be the last call."""
        while self.matched and char != self.text[self.matched]:
            self.matched = self._fallback[self.matched - 1]
        self.matched += char == self.text[self.matched]
        return self.matched == len(self.text)


class StopFilter:
    """Passes text on until a stop string is complete; what may be the beginning of one is held back.

    The cut falls where it would if characters came one by one (the stop string that is complete first;
    of several, the longest), so it does not depend on how the text is split into deltas.

    Args:
        stops: non-empty strings, possibly none.

    Attributes:
        matched: the stop string found, None before.

    Raises:
        ParameterError: an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ParameterError("a stop string must not be empty")
        self._patterns = [_Pattern(stop) for stop in stops]
        self.matched: str | None = None
        self._held = ""

    def push(self, delta: str) -> str:
        """Text that is safe to pass on after one token's ``delta`` (which may be empty).

        After a match nothing is passed on; the stop string and what follows it are dropped.
        """
        if not self._patterns:
            return delta
        if self.matched is not None:
            return ""
        start = len(self._held)
        text = self._held + delta
        for i, char in enumerate(delta):
            complete = [p.text for p in self._patterns if p.feed(char)]
            if complete:
                self.matched = max(complete, key=len)
                return self._emit(text, start + i + 1 - len(self.matched), "")
        hold = max((p.matched for p in self._patterns), default=0)
        return self._emit(text, len(text) - hold, text[len(text) - hold :])

    def flush(self) -> str:
        """The text held back, when generation ended without a match."""
        return self._emit(self._held, len(self._held), "")

    def _emit(self, text: str, length: int, held: str) -> str:
        self._held = held
        return text[:length]
