"""What a template may make: a bound for every value, and one for all values of a rendering together.

A value's weight is its characters, and 16 for every item of a container, items of items included and shared ones
counted as often as they stand there: what comparing, hashing and printing it cost.
"""

from __future__ import annotations

import sys
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from itertools import islice
from typing import Any, NoReturn

import jinja2

MAX_TEXT = 64 << 20  # characters of a value, and of the rendered text
MAX_CONTAINER = MAX_TEXT // 4  # weight of a container: printing it may take several characters for each
MAX_MADE = 512 << 20  # bytes of all values that a rendering makes
MAX_BITS = 1 << 14  # of an integer: about what Python prints
MAX_WIDTH = 10_000  # of a formatted field
MAX_WORK = 1 << 32  # steps of a search from the right, which is quadratic
ITEM = 16
PART = 64  # bytes of a short string in a list
CONTAINERS = (list, tuple, dict, set, frozenset)
_TEXTS = (str, bytes)
_SIZED = (*_TEXTS, *CONTAINERS)
_SMALL = frozenset((bool, float, type(None)))
_VIEWS = (KeysView, ValuesView, ItemsView)


def refuse(what: str) -> NoReturn:
    """End the rendering with a message.

    Raises:
        TemplateError: always.
    """
    raise jinja2.TemplateError(f"it makes {what}")


class Ledger:
    """The books of one rendering."""

    def __init__(self) -> None:
        self.made = 0
        self._weights: dict[int, tuple[object, int]] = {}  # the objects are kept: their ids must stay theirs

    def weigh(self, value: Any) -> int:
        """The weight of a value; no container of a template changes, so each is weighed once."""
        kind = type(value)
        if kind in _SMALL:
            return ITEM
        if kind is str or isinstance(value, _TEXTS):
            return ITEM + len(value)
        if isinstance(value, CONTAINERS):
            known = self._weights.get(id(value))
            return self.weighed(value, self._items(value)) if known is None else known[1]
        return self._items(value) if isinstance(value, _VIEWS) else ITEM

    def weighed(self, container: Any, weight: int) -> int:
        """Note the weight of a container."""
        self._weights[id(container)] = (container, weight)
        return weight

    def _items(self, container: Any) -> int:
        total = ITEM
        parts: Iterable[Any] = container
        if isinstance(container, dict):
            parts = (part for pair in container.items() for part in pair)
        for part in parts:
            total += self.weigh(part)
            if total > MAX_CONTAINER:
                refuse(f"a {type(container).__name__} of more than {MAX_CONTAINER:,} characters and items")
        return total

    def check(self, value: Any) -> Any:
        """The value, if its weight is within bounds.

        Raises:
            TemplateError: it is not.
        """
        kind = type(value)
        if kind in _SMALL:
            return value
        if kind is str or isinstance(value, _TEXTS):
            self.fits(len(value))
        elif isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                refuse(f"an integer of more than {MAX_BITS:,} bits")
        elif isinstance(value, CONTAINERS):
            if self.weigh(value) > MAX_CONTAINER:
                refuse(f"a {type(value).__name__} of more than {MAX_CONTAINER:,} characters and items")
        elif isinstance(value, _VIEWS):
            self.weigh(value)
        return value

    def charge(self, value: Any) -> Any:
        """The value, checked and counted as made.

        Raises:
            TemplateError: it is too large, or one too many.
        """
        kind = type(value)
        if kind is str and len(value) <= MAX_TEXT:  # as below, for what is made most often
            self.reserve(sys.getsizeof(value))
            return value
        self.check(value)
        if kind not in _SMALL and isinstance(value, _SIZED):
            self.reserve(sys.getsizeof(value))
        return value

    def reserve(self, size: int) -> None:
        """Count bytes as made.

        Raises:
            TemplateError: too many.
        """
        self.made += size
        if self.made > MAX_MADE:
            refuse(f"values of more than {MAX_MADE >> 20} MiB")

    def fits(self, length: int) -> None:
        """Refuse a text of this length before it is made.

        Raises:
            TemplateError: it is too long.
        """
        if length > MAX_TEXT:
            refuse(f"a text of more than {MAX_TEXT >> 20} Mi characters")

    def width(self, value: Any) -> None:
        """Refuse a number of columns, items or digits before it is used."""
        if isinstance(value, int) and abs(value) > MAX_TEXT:
            refuse(f"a field of {MAX_TEXT:,} columns or more")

    def quadratic(self, text: Any, part: Any) -> None:
        """Refuse a search that takes the product of two lengths."""
        if isinstance(text, str | bytes) and isinstance(part, str | bytes) and len(text) * len(part) > MAX_WORK:
            refuse(f"a search of {len(part):,} in {len(text):,} characters")

    def listed(self, values: Iterable[Any]) -> list[Any]:
        """The items of an iterable, which may be a generator without end."""
        most = MAX_CONTAINER // ITEM
        found = list(islice(values, most + 1))
        if len(found) > most:
            refuse(f"a list of more than {most:,} items")
        self.reserve(sys.getsizeof(found))
        return found

    def joined(self, separator: Any, values: Iterable[Any]) -> list[Any]:
        """The items to join, if the whole fits."""
        items = self.listed(values)
        self.fits(len(str(separator)) * len(items) + sum(map(self.weigh, map(self.check, items))))
        return items

    def mapped(self, table: Any) -> int:
        """The longest replacement in a table for str.translate."""
        values = table.values() if isinstance(table, Mapping) else ()
        return max((len(value) for value in values if isinstance(value, str)), default=1)
