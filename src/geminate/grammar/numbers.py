"""Bounds the digits of numbers in JSON and in tool calls, which nothing in a schema does.

Where a number has reached the bound and may end, further digits are not allowed; where it may not end yet, digits
other than 0 are, so that it soon may. So a longer constant or bound of a schema still works, and no grammar is left
without a token.

Imports nothing, because it also runs in the grammar processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

DIGITS = 20  # before the point: what 64-bit integers need
FRACTION_DIGITS = 20  # after it, and no more than make 17 significant digits, which tell all float64 apart
EXPONENT_DIGITS = 2  # so that the value is finite; one more if the exponent is negative

_OUTSIDE, _BETWEEN, _STRING, _ESCAPE, _WORD, _QUOTED, _INTEGER, _FRACTION, _EXPONENT, _NEGATIVE = range(10)
_LIMITS = {
    _INTEGER: DIGITS, _FRACTION: FRACTION_DIGITS, _EXPONENT: EXPONENT_DIGITS, _NEGATIVE: EXPONENT_DIGITS + 1,
}  # fmt: skip
_IN_WORDS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$.-")
_DIGIT_BYTES = frozenset(b"0123456789")

State = tuple[int, int, int]
"""What is being written, the digits of this part of a number, and its significant digits so far."""


class NumberBounds:
    """Where in a grammar's text numbers are bounded.

    Args:
        marks: ``text``: whether text outside calls is JSON; ``calls``: the tokens around a tool call and around a
            string in it; ``reasoning``: those around reasoning, and
            ``begun`` whether the prompt has opened it; ``significant``: how many digits a fraction may make.
        token_bytes: the bytes of a token.
    """

    def __init__(self, marks: Mapping[str, Any], token_bytes: Callable[[int], bytes]) -> None:
        self._bytes = token_bytes
        calls: Sequence[int] = marks["calls"] or (-1, -1, -1)
        opened, closed, self._quote = calls
        self._into = {opened: _BETWEEN, closed: _OUTSIDE}
        self._significant: int = marks["significant"]
        self.start: State = (_BETWEEN if marks["text"] else _OUTSIDE, 0, 0)
        if "reasoning" in marks:
            thought, ended = marks["reasoning"]
            self._into |= {thought: _OUTSIDE, ended: self.start[0]}
            if marks["begun"]:
                self.start = (_OUTSIDE, 0, 0)

    def after(self, state: State, token: int) -> State:
        """The state after one more token."""
        if token in self._into:
            return self._into[token], 0, 0
        mode = state[0]
        if token == self._quote:
            return (_OUTSIDE if mode == _OUTSIDE else _BETWEEN if mode == _QUOTED else _QUOTED), 0, 0
        if mode in (_OUTSIDE, _QUOTED):
            return state
        for byte in self._bytes(token):
            state = _step(state, byte)
        return state

    def restrict(self, state: State, bits: bytes) -> bytes:
        """The mask (a bit a token) without digits where the number must not grow."""
        mode, digits, significant = state
        if mode not in _LIMITS:
            return bits
        left = _LIMITS[mode] - digits
        if mode == _FRACTION:
            left = min(left, self._significant - significant)
        if left > 0:
            return bits
        others, growing = bytearray(bits), bytearray(bits)
        for at, byte in enumerate(bits):
            for bit in range(8) if byte else ():
                if byte >> bit & 1:
                    first = self._bytes(at * 8 + bit)[:1]
                    if first and first[0] in _DIGIT_BYTES:
                        others[at] &= ~(1 << bit)
                        if first == b"0":
                            growing[at] &= ~(1 << bit)
        if any(others):
            return bytes(others)
        return bytes(growing) if any(growing) else bits


def _step(state: State, byte: int) -> State:
    mode, digits, significant = state
    if mode == _ESCAPE:
        return _STRING, 0, 0
    if mode == _STRING:
        return (_ESCAPE if byte == ord("\\") else _BETWEEN if byte == ord('"') else _STRING), 0, 0
    if mode == _WORD and byte in _IN_WORDS:
        return _WORD, 0, 0
    if mode in _LIMITS:
        if byte in _DIGIT_BYTES:
            return mode, digits + 1, significant + (significant > 0 or byte != ord("0"))
        if byte == ord("."):
            return _FRACTION, 0, significant
        if byte in b"eE":
            return _EXPONENT, 0, 0
        if byte in b"+-":
            return (_NEGATIVE if byte == ord("-") else mode), 0, 0
    if byte == ord('"'):
        return _STRING, 0, 0
    if byte in _DIGIT_BYTES:
        return _INTEGER, 1, int(byte != ord("0"))
    return (_WORD if byte in _IN_WORDS and byte not in b"-." else _BETWEEN), 0, 0
