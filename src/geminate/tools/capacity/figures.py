"""A number that says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["measured", "computed", "assumed"]
MARKS: dict[Kind, str] = {"measured": "m", "computed": "c", "assumed": "a"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number of a report.

    Attributes:
        value: None where there is none.
        kind: read off a clock here; computed from such, from the plan of the model or from a specification; or taken
            on trust from the user or the table of machines.
    """

    value: float | None
    unit: str
    kind: Kind

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with four significant digits."""
        value = None if self.value is None else float(f"{self.value:.4g}")
        return {"value": value, "unit": self.unit, "kind": self.kind}


def computed(value: float | None, unit: str) -> Figure:
    """A computed figure."""
    return Figure(value=value, unit=unit, kind="computed")


def assumed(value: float | None, unit: str) -> Figure:
    """An assumed figure."""
    return Figure(value=value, unit=unit, kind="assumed")


def shown(figure: Figure, digits: int = 3) -> str:
    """A figure for people: three significant digits, thousands apart, counts as they are; "-" for none."""
    if figure.value is None:
        return "-"
    if not figure.unit and figure.value == int(figure.value):
        return f"{figure.value:,.0f}"
    return number(figure.value, digits)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in scientific notation."""
    if value == 0:
        return "0"
    size = abs(value)
    before = len(str(int(size)))
    if size >= 10 ** (digits - 1) or (size >= 1 and before >= digits):
        return f"{value:,.0f}"
    if size >= 1:
        return f"{value:.{digits - before}f}"
    return f"{value:.{digits - 1}g}" if size >= 1e-3 else f"{value:.1e}"
