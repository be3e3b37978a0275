"""Checked fields of ``quantization_config``, shared by the methods that are read.

A field that would change the arithmetic into something that is not computed here is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from geminate.errors import ConfigError, shown

WHERE = "quantization_config"
MAX_PATTERNS = 64
Kind = Literal["Linear", "Embedding"]
_NOTHING: tuple[Any, ...] = (None, False, {}, [], "")


def object_field(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be an object, not {shown(value)}")
    return value


def names_field(value: Any, where: str, most: int) -> list[str]:
    """A list of at most ``most`` strings.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, list) or len(value) > most or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where} must be a list of at most {most:,} strings, not {shown(value)}")
    return value


def only_known(raw: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse fields that are set and not known.

    Raises:
        ConfigError: one is.
    """
    for name, value in raw.items():
        if name not in known and value not in _NOTHING:
            raise ConfigError(f"{where} sets {shown(name)}, which is not supported")


def one_of(raw: Mapping[str, Any], where: str, name: str, default: Any, legal: tuple[Any, ...]) -> Any:
    """A field that has one of some values.

    Raises:
        ConfigError: it has another.
    """
    value = raw.get(name, default)
    if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in legal):
        listed = ", ".join(shown(each) for each in legal)
        raise ConfigError(f"{where}.{name} is {shown(value)}; supported: {listed}")
    return value


def group_field(raw: Mapping[str, Any], where: str) -> int:
    """``group_size``: columns that share a scale; 0 for one scale a row, which is written as -1.

    Raises:
        ConfigError: no multiple of 32, so that the scales fit no grid that is computed here.
    """
    value = raw.get("group_size", -1)
    if value == -1 and not isinstance(value, bool):
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0 or value % 32:
        raise ConfigError(f"{where}.group_size is {shown(value)}; supported: multiples of 32, and -1")
    return value
