"""JSON Schema helpers: resolving references, and checking whether any finite value satisfies a schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from geminate.errors import ParameterError, kind_of, shown


def schema_text(schema: object) -> str:
    """The schema as JSON text.

    Raises:
        ParameterError: not a JSON object, values that JSON cannot express, or nested too deeply.
    """
    if not isinstance(schema, Mapping):
        raise ParameterError(f"a JSON schema must be an object, not {kind_of(schema)}")
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        why = "an integer in it has too many digits" if "int_max_str_digits" in str(error) else error
        raise ParameterError(f"the JSON schema is not JSON: {why}") from error
    except RecursionError as error:
        raise ParameterError("the JSON schema is nested too deeply; use $defs and $ref") from error
    return text


def resolve(root: object, reference: object) -> Any:
    """The subschema that a ``$ref`` within the document points to (an RFC 6901 pointer after ``#``).

    Raises:
        ParameterError: a reference to another document, or to nothing.
    """
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ParameterError(f"$ref {reference!r}: only references within the schema ('#/...') are supported")
    at: Any = root
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and step in at:
            at = at[step]
        elif isinstance(at, list) and step.isdigit() and int(step) < len(at):
            at = at[int(step)]
        else:
            raise ParameterError(f"$ref {reference!r} points to nothing in the schema")
    return at


class _Finite:
    """Least fixed point: a schema has a finite value if everything it requires has one without requiring the schema."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._targets: dict[str, Any] = {}  # references seen so far and their targets
        self._finite: set[str] = set()  # references known to have a finite value

    def __call__(self) -> bool:
        found = self._has(self._root)
        grown = True
        while grown and not found:
            before = len(self._finite), len(self._targets)
            for reference, target in list(self._targets.items()):
                if reference not in self._finite and self._has(target):
                    self._finite.add(reference)
            grown = before != (len(self._finite), len(self._targets))
            found = self._has(self._root)
        return found

    def _has(self, schema: object) -> bool:
        if not isinstance(schema, Mapping):
            return schema is not False
        if "$ref" in schema and not self._reference(schema["$ref"]):
            return False
        for several in ("anyOf", "oneOf"):
            options = schema.get(several)
            if isinstance(options, list) and options and not any(self._has(option) for option in options):
                return False
        if not all(self._has(part) for part in _list(schema.get("allOf"))):
            return False
        kind = schema.get("type")
        return self._object(schema) if kind == "object" else self._array(schema) if kind == "array" else True

    def _reference(self, reference: object) -> bool:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        if reference not in self._targets:
            try:
                self._targets[reference] = resolve(self._root, reference)
            except ParameterError:
                self._finite.add(reference)  # reported when the schema is compiled
                self._targets[reference] = True
        return reference in self._finite

    def _object(self, schema: Mapping[str, Any]) -> bool:
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        return all(self._has(known[name]) for name in _names(schema.get("required")) if name in known)

    def _array(self, schema: Mapping[str, Any]) -> bool:
        least = schema.get("minItems", 0)
        if not isinstance(least, int) or least <= 0:
            return True
        first = _list(schema.get("prefixItems"))[:least]
        return all(self._has(item) for item in first) and (least <= len(first) or self._has(schema.get("items", True)))


def _names(value: object) -> list[str]:
    return [name for name in _list(value) if isinstance(name, str)]  # others are refused when the schema is compiled


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def has_finite_value(schema: Mapping[str, Any]) -> bool:
    """False for a schema that requires itself endlessly, such as an object with a required property ``{"$ref": "#"}``.

    True does not prove that a value exists: the schema may be contradictory in other ways.

    Raises:
        ParameterError: nested too deeply.
    """
    try:
        return _Finite(schema)()
    except RecursionError as error:
        raise ParameterError("the JSON schema is nested too deeply") from error


MAX_MULTIPLE = 100_000
MAX_INTEGER = 2**53
_LARGEST_BOUND = 2**63 - 1024  # that the library can handle
_BEYOND_ALL = 1e120  # no number is generated that large: see `geminate.grammar.numbers`
_BOUNDS = {
    "minimum": math.inf, "exclusiveMinimum": math.inf, "maximum": -math.inf, "exclusiveMaximum": -math.inf,
}  # fmt: skip
_VALUED = frozenset((*_BOUNDS, "const", "enum"))


def tighten_numbers(schema: object) -> None:
    """Change a schema, in place, so that the library, which reads numbers as float64, admits no value that it excludes.

    Integer bounds beyond 2**53 become the next float64 inside them; bounds that the library cannot handle, the largest
    that it can, or none where no number is generated that large.

    Raises:
        ParameterError: an integer beyond 2**53 as a value; or bounds between two neighbouring whole numbers, one of
            them excluded, where the library admits the excluded one.
    """
    level = [schema]
    while level:
        at = level.pop()
        if isinstance(at, dict) and _VALUED.isdisjoint(at):
            level.extend(at.values())
        elif isinstance(at, dict):
            for name, towards in _BOUNDS.items():
                if _is_large(at.get(name)):
                    at[name] = _inside(at[name], towards)
                if is_number(at.get(name)) and (at[name] > 0) == (towards < 0) and abs(at[name]) > _LARGEST_BOUND:
                    huge = at.pop(name)
                    if abs(huge) < _BEYOND_ALL:
                        at[name] = _LARGEST_BOUND if huge > 0 else -_LARGEST_BOUND
            for value in [at.get("const"), *_list(at.get("enum"))]:
                if _is_large(value):
                    raise ParameterError(f"{shown(value)} cannot be enforced exactly: it is beyond 2**53")
            _check_neighbours(at)
            level.extend(at.values())
        elif isinstance(at, list):
            level.extend(at)


def _check_neighbours(schema: Mapping[str, Any]) -> None:
    low, high = _number(schema.get("exclusiveMinimum")), _number(schema.get("exclusiveMaximum"))
    most = _number(schema.get("maximum")) if high is None else high
    least = _number(schema.get("minimum")) if low is None else low
    if low is not None and most is not None and low == int(low) and most < low + 1:
        raise ParameterError(f"exclusiveMinimum: {low:g} with a maximum below {low + 1:g} cannot be enforced")
    if high is not None and least is not None and high == int(high) and least > high - 1:
        raise ParameterError(f"exclusiveMaximum: {high:g} with a minimum above {high - 1:g} cannot be enforced")


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; Python's booleans are integers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_large(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER


def _inside(bound: int, towards: float) -> int:
    """The nearest integer that is a float64 and not beyond the bound."""
    try:
        near = float(bound)
    except OverflowError:
        raise ParameterError(f"the bound {shown(bound)} is too large") from None
    beyond = near > bound if towards < 0 else near < bound
    return int(math.nextafter(near, towards) if beyond else near)


def _number(value: object) -> float | None:
    return float(value) if is_number(value) and abs(value) <= MAX_INTEGER else None  # type: ignore


def check_multiples(schema: object) -> None:
    """Refuse ``multipleOf`` values whose automata would be too large: one state for each remainder.

    Raises:
        ParameterError: their least common multiple, decimal points left out, is above `MAX_MULTIPLE`.
    """
    found: set[int] = set()
    level = [schema]
    while level:
        at = level.pop()
        if isinstance(at, Mapping):
            value = at.get("multipleOf")
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                digits = "".join(map(str, Decimal(str(value)).normalize().as_tuple().digits))
                found.add(int(value) if value == int(value) else int(digits))
            level.extend(at.values())
        elif isinstance(at, list):
            level.extend(at)
    if math.lcm(*found) > MAX_MULTIPLE:
        raise ParameterError(
            f"multipleOf: {', '.join(map(str, sorted(found)[:5]))} need too many states; "
            f"their least common multiple must be at most {MAX_MULTIPLE:,}"
        )
