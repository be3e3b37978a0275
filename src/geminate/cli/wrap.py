"""Ends lines between words while text is streamed to a terminal."""

from __future__ import annotations

import os
import shutil

from rich.cells import cell_len

_ERASE = "\x1b[{}D\x1b[K"  # the last columns


class Wrapping:
    """Text for a terminal, part by part: a word that does not fit its line is taken back and begins the next one.

    Args:
        width: of the terminal in columns; None asks it before every part.
    """

    def __init__(self, width: int | None = None) -> None:
        self._width = width
        self._at = 0  # columns of the line that are used
        self._word = ""  # the word at their end, which may go on
        self._erases = os.environ.get("TERM", "dumb") != "dumb"

    def wrap(self, text: str) -> str:
        """The part with line ends, and what moves words to the next line."""
        # The last column is left free: behind it terminals disagree where the cursor is.
        width = (self._width or shutil.get_terminal_size().columns) - 1
        return "".join(self._taken(char, width) for char in text)

    def _taken(self, char: str, width: int) -> str:
        if char == "\n":
            self._at, self._word = 0, ""
            return char
        if char == "\t":
            char = " " * (8 - self._at % 8)
        cells = cell_len(char)
        if char.isspace():
            self._word = ""
            self._at += cells
            return char if self._at <= width else ""  # a space at the end of a line is not seen
        if self._at + cells <= width:
            self._at, self._word = self._at + cells, self._word + char
            return char
        return self._moved(char, cells, width)

    def _moved(self, char: str, cells: int, width: int) -> str:
        """The next line, begun with the word of which ``char`` is the next letter, if it can be taken back."""
        before = cell_len(self._word)
        if not self._erases or before >= self._at or before + cells > width:  # the whole line is one word
            self._at, self._word = cells, char
            return "\n" + char
        start = _ERASE.format(before) if before else ""
        self._at, self._word = before + cells, self._word + char
        return f"{start}\n{self._word}"
