"""Reads the tables of a plan file: every field is checked, and one that does not exist is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geminate.errors import ParameterError, kind_of, shown


class Fields:
    """One table.

    Args:
        where: what to call it in messages.
    """

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise ParameterError(f"{where} must be a table, not {kind_of(raw)}")
        self.raw: dict[str, Any] = dict(raw)
        self.where = where
        self._known: list[str] = []

    def take(self, name: str) -> Any:
        """A field, or None."""
        self._known.append(name)
        return self.raw.pop(name, None)

    def number(self, name: str, low: float, high: float, *, above: bool = False) -> float | None:
        """A number from ``low`` (or above it) to ``high``; None where it is not given.

        Raises:
            ParameterError: no such number.
        """
        value = self.take(name)
        if value is None:
            return None
        legal = f"a number {'above' if above else 'from'} {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParameterError(f"{self.where}: {name} must be {legal}, not {kind_of(value)}")
        if not low <= value <= high or (above and value == low):
            raise ParameterError(f"{self.where}: {name} must be {legal}, not {shown(value)}")
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number; None where it is not given."""
        value = self.number(name, low, high)
        if value is not None and value != int(value):
            raise ParameterError(f"{self.where}: {name} must be a whole number, not {shown(value)}")
        return None if value is None else int(value)

    def text(self, name: str) -> str | None:
        """A string; None where it is not given."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise ParameterError(f"{self.where}: {name} must be a string, not {kind_of(value)}")
        return value

    def tables(self, name: str) -> Sequence[object]:
        """A list of tables, or one table."""
        value = self.take(name)
        if value is None:
            return ()
        return value if isinstance(value, list) else [value]

    def end(self) -> None:
        """Every field was taken.

        Raises:
            ParameterError: there is another one.
        """
        if self.raw:
            name = next(iter(self.raw))
            raise ParameterError(
                f"{self.where}: there is no field {shown(name)}; the fields are {', '.join(dict.fromkeys(self._known))}"
            )
