"""Bounds of the methods, filters and operators whose result may be much larger than what they take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from geminate.text.ledger import ITEM, MAX_BITS, MAX_CONTAINER, MAX_WIDTH, PART, Ledger, refuse

MAX_FILTERED = 20_000  # characters that filters search with regular expressions
MAX_PRECISION = 300
MAX_DIGITS = 4300  # of a number in a text, as Python has it
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# A width or precision of five digits or more, or one that is an argument; behind %, or behind the name in %(name)s.
_WIDE = re.compile(r"[%)][#0\- +]*(?:\d{0,4}\.)?(?:\*|\d{5,})")
_NUMBER = re.compile(r"\d+")


def _lines(text: Any) -> int:
    return 1 + (sum(map(text.count, _LINE_ENDS)) if isinstance(text, str) else text.count(b"\n") + text.count(b"\r"))


def _width(ledger: Ledger, text: Any, width: Any = 80, fill: Any = " ") -> None:
    ledger.width(width)


def _tabs(ledger: Ledger, text: Any, tabsize: Any = 8) -> None:
    ledger.fits(len(text) + text.count("\t" if isinstance(text, str) else b"\t") * tabsize)


def _replace(ledger: Ledger, text: Any, old: Any, new: Any, count: Any = -1) -> None:
    if isinstance(old, str | bytes) and isinstance(new, str | bytes):
        ledger.fits(len(text) + text.count(old) * len(new))


def _split(ledger: Ledger, text: Any, sep: Any = None, maxsplit: Any = -1) -> None:
    parts = text.count(sep) if sep else (len(text) + 1) // 2
    ledger.reserve(PART * (1 + (min(parts, maxsplit) if maxsplit >= 0 else parts)))


def _right(ledger: Ledger, text: Any, part: Any = None, *rest: Any, **more: Any) -> None:
    ledger.quadratic(text, part)


def _rsplit(ledger: Ledger, text: Any, sep: Any = None, maxsplit: Any = -1) -> None:
    ledger.quadratic(text, sep)
    _split(ledger, text, sep, maxsplit)


def _splitlines(ledger: Ledger, text: Any, keepends: Any = False) -> None:
    ledger.reserve(PART * _lines(text))


def _translate(ledger: Ledger, text: Any, table: Any, **more: Any) -> None:
    ledger.fits(len(text) * ledger.mapped(table))


TEXT_METHODS: dict[str, Callable[..., None]] = {
    "center": _width, "ljust": _width, "rjust": _width, "zfill": _width, "expandtabs": _tabs, "replace": _replace,
    "split": _split, "rsplit": _rsplit, "splitlines": _splitlines, "translate": _translate, "rfind": _right,
    "rindex": _right, "rpartition": _right, "strip": _right, "lstrip": _right, "rstrip": _right,
}  # fmt: skip


def guard_call(ledger: Ledger, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Check a call before it is made; the arguments to make it with.

    Raises:
        TemplateError: its result or its arguments would be too large.
    """
    for value in args:
        ledger.check(value)
    for value in kwargs.values():
        ledger.check(value)
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, str | bytes):
        if name == "join" and len(args) == 1:
            return (ledger.joined(owner, args[0]),)
        guard = TEXT_METHODS.get(name)
        if guard is not None:
            guard(ledger, owner, *args, **kwargs)
    elif isinstance(owner, int) and name == "to_bytes":
        for value in (*args, *kwargs.values()):
            ledger.width(value)
    return args


def _indent(ledger: Ledger, text: Any, width: Any = 4, first: Any = False, blank: Any = False) -> None:
    columns = len(width) if isinstance(width, str) else width
    ledger.width(columns)
    ledger.fits(len(text) + (1 + _lines(text)) * columns)


def _searched(ledger: Ledger, text: Any, *rest: Any, **more: Any) -> None:
    if isinstance(text, str) and len(text) > MAX_FILTERED:
        refuse(f"a filter search {len(text):,} characters, of which {MAX_FILTERED:,} are allowed")


def _wordwrap(ledger: Ledger, text: Any, width: Any = 79, long: Any = True, wrapstring: Any = None, *more: Any,
              **others: Any) -> None:  # fmt: skip
    _searched(ledger, text)
    ledger.fits(len(text) * (1 + len(wrapstring or "")))


def _groups(ledger: Ledger, values: Any, count: Any, fill: Any = None) -> None:
    if isinstance(values, str | bytes):
        _items(ledger, values)
    if isinstance(count, int) and count > MAX_CONTAINER // ITEM:
        refuse(f"{count:,} groups or items of a group")


def _items(ledger: Ledger, values: Any, *rest: Any, **more: Any) -> None:
    if isinstance(values, str | bytes) and len(values) > MAX_CONTAINER // ITEM:
        refuse(f"a list of more than {MAX_CONTAINER // ITEM:,} items")


def _round(ledger: Ledger, value: Any, precision: Any = 0, method: Any = "common") -> None:
    if isinstance(precision, int) and abs(precision) > MAX_PRECISION:
        refuse(f"a number of more than {MAX_PRECISION} digits")


def _int(ledger: Ledger, value: Any, default: Any = 0, base: Any = 10) -> None:
    if isinstance(value, str | bytes) and len(value) > MAX_DIGITS:
        refuse(f"a number of more than {MAX_DIGITS:,} digits")


def _format(ledger: Ledger, text: Any, *args: Any, **kwargs: Any) -> None:
    guard_percent(ledger, str(text), kwargs or args)


FILTERS: dict[str, Callable[..., None]] = {
    "center": _width, "indent": _indent, "replace": _replace, "wordwrap": _wordwrap, "urlize": _searched,
    "striptags": _searched, "title": _searched, "wordcount": _searched, "batch": _groups, "slice": _groups,
    "sort": _items, "groupby": _items, "unique": _items, "random": _items, "round": _round, "int": _int,
    "format": _format, "trim": _right,
}  # fmt: skip


def guard_percent(ledger: Ledger, text: Any, values: Any) -> None:
    """Check ``text % values``.

    Raises:
        TemplateError: a width that is an argument or above `MAX_WIDTH`, or a result that is too long.
    """
    form = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    form = form.replace("%%", "")
    fields = form.count("%")
    if any(found[0][0] == "%" or "%(" in form for found in _WIDE.finditer(form)):
        refuse(f"a field whose width is an argument or above {MAX_WIDTH:,}")
    columns = 2 * MAX_WIDTH if any(len(number) > 2 for number in _NUMBER.findall(form)) else 200
    weight = ledger.weigh(values) * (10 if "r" in form or "a" in form else 1)
    several = fields if isinstance(values, Mapping) else 1  # a name may stand there more than once
    ledger.fits(len(form) + fields * columns + several * weight)


def guard_spec(spec: str) -> None:
    """Check the width and precision of a field of str.format.

    Raises:
        TemplateError: above `MAX_WIDTH`.
    """
    if any(len(number.lstrip("0")) > 4 for number in _NUMBER.findall(spec)):
        refuse(f"a field whose width is above {MAX_WIDTH:,}")


def _times(ledger: Ledger, one: Any, count: int) -> int | None:
    """Weight of a sequence repeated."""
    if isinstance(one, str | bytes):
        ledger.fits(len(one) * count)
        return None
    weight = ledger.weigh(one) * max(0, count)
    if weight > MAX_CONTAINER:
        refuse(f"a {type(one).__name__} of more than {MAX_CONTAINER:,} characters and items")
    return weight


def guard_operator(ledger: Ledger, operator: str, left: Any, right: Any) -> int | None:
    """Check an operation before it is made; the weight of the container it makes, where that is known.

    Raises:
        TemplateError: the operands or the result are too large.
    """
    ledger.check(left)
    ledger.check(right)
    if operator == "+":
        if isinstance(left, str | bytes) and isinstance(right, str | bytes):
            ledger.fits(len(left) + len(right))
        elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
            weight = ledger.weigh(left) + ledger.weigh(right)
            return weight if weight <= MAX_CONTAINER else refuse(f"a list of more than {MAX_CONTAINER:,} characters")
    elif operator == "*":
        if isinstance(left, int) and isinstance(right, int):
            _bits(left.bit_length() + right.bit_length())
        elif isinstance(right, int) and isinstance(left, str | bytes | list | tuple):
            return _times(ledger, left, right)
        elif isinstance(left, int) and isinstance(right, str | bytes | list | tuple):
            return _times(ledger, right, left)
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            _bits(left.bit_length() * right if abs(left) > 1 else 0)
    elif operator == "%" and isinstance(left, str | bytes):
        guard_percent(ledger, left, right)
    return None


def _bits(count: int) -> None:
    if count > MAX_BITS:
        refuse(f"an integer of more than {MAX_BITS:,} bits")


def total(values: Iterable[Any], start: Any, add: Callable[[Any, Any], Any]) -> Any:
    """The sum of values by a checked addition."""
    for value in values:
        start = add(start, value)
    return start
