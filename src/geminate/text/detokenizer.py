"""Token ids to text as they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class TokenTexts(Protocol):
    """What is known of single tokens; a `Tokenizer` is one."""

    def piece(self, token: int) -> str | int | None:
        """A token's text, its byte, or None for no token."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether the token is no part of plain text."""
        ...


class Detokenizer:
    """Turns tokens into text deltas whose concatenation is exactly ``Tokenizer.decode`` of them all.

    Byte tokens are held back until another token ends their run: the tokenizers library turns a whole
    run into U+FFFD, one per byte, if any part of it is not UTF-8, so no earlier answer would be safe.
    Only at the end of a text is it otherwise: a run that ends within a character keeps those before it.
    Every token is looked at once, whatever the length of the text.

    Args:
        tokenizer: whose tokens these are.
        skip_special: leave special tokens out; they do not end a run of bytes then.
    """

    def __init__(self, tokenizer: TokenTexts, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._bytes = bytearray()

    def push(self, token: int) -> str:
        """The text that is certain after one more token, often empty.

        Raises:
            TokenizerError: a negative id, or one of more than 32 bits.
        """
        piece = self._tokenizer.piece(token)
        if piece is None or (self._skip_special and self._tokenizer.is_special(token)):
            return ""
        if isinstance(piece, int):
            self._bytes.append(piece)
            return ""
        return self._run() + piece

    def extend(self, tokens: Iterable[int]) -> str:
        """`push` for several tokens."""
        return "".join([self.push(token) for token in tokens])

    def flush(self) -> str:
        """The text of bytes still held back; afterwards a new text may begin.

        A character that was cut off becomes one U+FFFD, and those before it stay.
        """
        tail = "\ufffd" if self._drop_tail() else ""
        return self._run() + tail

    def cut(self) -> str:
        """`flush` without the character that was cut off."""
        self._drop_tail()
        return self._run()

    def _drop_tail(self) -> bool:
        """Forget the bytes of a last character that is not complete; whether there were any."""
        try:
            self._bytes.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                del self._bytes[error.start :]
                return True
        return False

    def _run(self) -> str:
        held = bytes(self._bytes)
        self._bytes.clear()
        try:
            return held.decode("utf-8")
        except UnicodeDecodeError:
            return "\ufffd" * len(held)
