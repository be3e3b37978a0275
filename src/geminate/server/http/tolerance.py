"""What other servers' clients send and this one has no use for: rules that rewrite a body before it is validated.

A `Level` describes one JSON object of a body. Its rules say which fields have no effect (`Hint`), which values mean
the same as leaving the field out (`Off`), which fields have another name here (`Alias`), and which are refused with a
way out (`Refused`). Everything else is left to the validation, which refuses unknown fields by name. Null counts as
absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pydantic import BaseModel

from geminate.server.http.errors import bad_request

ABSENT: Final = object()
MAX_NAMES, MAX_HEADER = 64, 1000
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
Body = dict[str, Any]


class Reading:
    """One body while its rules are applied.

    Args:
        body: the whole body; changed in place.
        strict: refuse fields without an effect instead of dropping them, and rewrite nothing.

    Attributes:
        ignored: paths of the fields that had no effect, list indices left out, in the order of the body.
    """

    def __init__(self, body: Body, *, strict: bool = False) -> None:
        self.body, self.strict = body, strict
        self._ignored: dict[str, None] = {}

    @property
    def ignored(self) -> list[str]:
        """Paths such as ``messages[].name``."""
        return list(self._ignored)

    def ignore(self, place: Place, key: str) -> None:
        """Drop a field that has no effect, and note it.

        Raises:
            ApiError: strict.
        """
        if self.strict:
            name = place.name(key)
            raise bad_request(
                f"{name} has no effect here, and this server refuses such fields (--unknown-fields refuse)",
                name,
                "unknown_field",
            )
        place.owner.pop(key, None)
        self.note(place, key)

    def note(self, place: Place, key: str) -> None:
        """Note that a field, or a part of it, has no effect."""
        if len(self._ignored) < MAX_NAMES:
            self._ignored[place.pattern(key)] = None


@dataclass(frozen=True, slots=True)
class Place:
    """An object of the body and the path to it, with and without list indices."""

    owner: Body
    path: str
    kind: str

    def name(self, key: str) -> str:
        """The path of a field."""
        return f"{self.path}.{key}"[:200] if self.path else key[:200]

    def pattern(self, key: str) -> str:
        """The path of a field without list indices, printable whatever the client called it."""
        shown = key if _PLAIN.fullmatch(key) else json.dumps(key[:40])
        return f"{self.kind}.{shown}" if self.kind else shown


class Rule(Protocol):
    """What to do with one field that is present and not null."""

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        """Leave the field, rewrite it, drop it, or refuse it.

        Raises:
            ApiError: it is refused.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hint:
    """A field without an effect; with ``when``, only if that holds of its value and the whole body."""

    when: Callable[[Any, Body], bool] | None = None

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        if self.when is None or self.when(place.owner[key], reading.body):
            reading.ignore(place, key)


@dataclass(frozen=True, slots=True)
class Off:
    """Values that other servers take for "off": the field is dropped, or becomes what means that here.

    Attributes:
        instead: for a field that is not supported otherwise: what to do about another value.
    """

    values: tuple[Any, ...]
    becomes: Any = ABSENT
    instead: str | None = None
    when: Callable[[Any, Body], bool] | None = None

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        value = place.owner[key]
        off = any(same(value, one) for one in self.values) and (self.when is None or self.when(value, reading.body))
        if off and not reading.strict:
            if self.becomes is ABSENT:
                del place.owner[key]
            else:
                place.owner[key] = self.becomes
        elif not off and self.instead is not None:
            raise refused(place.name(key), self.instead)


@dataclass(frozen=True, slots=True)
class Alias:
    """Another server's name for a field."""

    to: str
    off: tuple[Any, ...] = ()

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        if reading.strict:
            raise refused(place.name(key), f"use {self.to}")
        value = place.owner.pop(key)
        if any(same(value, one) for one in self.off):
            return
        if place.owner.get(self.to, value) != value:
            name = place.name(key)
            raise bad_request(f"{name} and {self.to} differ; set only one of them", name)
        place.owner[self.to] = value


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is refused with what to do instead."""

    instead: str

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        raise refused(place.name(key), self.instead)


@dataclass(frozen=True, slots=True)
class Only:
    """A field whose other values are refused with a message of their own; ``{}`` in it is the value."""

    values: tuple[str, ...]
    instead: str

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        value = place.owner[key]
        if isinstance(value, str) and value not in self.values:
            name = place.name(key)
            raise bad_request(f"{name}: {self.instead.format(json.dumps(value[:80]))}", name, "unsupported_value")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rule of its own; not applied when strict."""

    work: Callable[[Reading, Place, str], None]

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        if not reading.strict:
            self.work(reading, place, key)


@dataclass(frozen=True, slots=True)
class Level:
    """The rules of one object of a body.

    Attributes:
        rules: by field. below: levels of the object, or of the objects of the list, in a field.
        others: a model: fields that neither it nor the rules know have no effect.
        choose: another level by the object, such as by a message's role.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    below: Mapping[str, Level] = field(default_factory=dict)
    others: type[BaseModel] | None = None
    choose: Callable[[Body], Level | None] | None = None


def refused(name: str, instead: str) -> Exception:
    """400 for a field that is not supported, with the way out."""
    return bad_request(f"{name} is not supported: {instead}", name, "unsupported_field")


def same(value: Any, other: Any) -> bool:
    """Equality that tells true from 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def apply(level: Level, body: Body, *, strict: bool = False) -> list[str]:
    """Apply a level's rules to a body, in place.

    Returns:
        Paths of the fields that had no effect.

    Raises:
        ApiError: a field that is refused.
    """
    reading = Reading(body, strict=strict)
    _apply(reading, level, Place(body, "", ""))
    return reading.ignored


def _apply(reading: Reading, level: Level, place: Place) -> None:
    if level.choose is not None:
        chosen = level.choose(place.owner)
        if chosen is not None:
            _apply(reading, chosen, place)
        return
    owner = place.owner
    for key in [key for key, value in owner.items() if value is None]:
        del owner[key]
    for key in list(owner):
        rule = level.rules.get(key)
        if key not in owner:
            continue  # another field's rule took it
        if rule is not None:
            rule.apply(reading, place, key)
        elif level.others is not None and key not in level.others.model_fields:
            reading.ignore(place, key)
    for key, lower in level.below.items():
        value = owner.get(key)
        if isinstance(value, dict):
            _apply(reading, lower, Place(value, place.name(key), place.pattern(key)))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    _apply(reading, lower, Place(item, f"{place.name(key)}[{index}]", f"{place.pattern(key)}[]"))


def header(ignored: list[str]) -> bytes:
    """The names as the value of ``X-Geminate-Ignored``, at most `MAX_HEADER` bytes."""
    shown = ", ".join(ignored)
    if len(shown) > MAX_HEADER:
        shown = shown[: MAX_HEADER - 5].rpartition(", ")[0] + ", ..."
    return shown.encode("ascii", "backslashreplace")
