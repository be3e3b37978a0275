"""Where the values of settings come from.

A value comes from the flag, else the environment (``GEMINATE_SERVE_<NAME>``), else the TOML file, else the default.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geminate.errors import GeminateError, ParameterError
from geminate.server.settings import ENV_PREFIX, Row, Settings, check_field, rows, words
from geminate.sizes import parse_size

CONFIG_ENV = "GEMINATE_SERVE_CONFIG"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    config: str | Path | None = None,
) -> Settings:
    """Merge the four sources into settings.

    Args:
        flags: values from the command line; None means not given.
        env: the environment; None reads the process's own.
        config: TOML file; None falls back to ``GEMINATE_SERVE_CONFIG``.

    Raises:
        ParameterError: an unknown name or an invalid value; the message names the source.
    """
    env = os.environ if env is None else env
    known = {row.name: row for row in rows()}
    values: dict[str, Any] = {}
    path = config or env.get(CONFIG_ENV)
    if path:
        values = checked(read_toml(Path(path)), str(path))
    for variable, text in env.items():
        if variable.startswith(ENV_PREFIX) and variable != CONFIG_ENV:
            _take(values, known, variable[len(ENV_PREFIX) :].lower(), text, variable)
    for name, value in (flags or {}).items():
        if value is not None and value != []:
            _take(values, known, name, value, known[name].flag if name in known else name)
    return Settings(**values)


def checked(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values of settings from a table of a TOML file, each checked by itself.

    Args:
        source: what messages call the table.

    Raises:
        ParameterError: an unknown name or an invalid value.
    """
    known = {row.name: row for row in rows()}
    values: dict[str, Any] = {}
    for name, value in table.items():
        _take(values, known, name, value, source)
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        ParameterError: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ParameterError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not valid TOML: {error}") from error


def _take(values: dict[str, Any], known: Mapping[str, Row], name: str, value: Any, source: str) -> None:
    row = known.get(name)
    if row is None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError(f"{source}: there is no setting {name!r}{hint}")
    try:
        made = _coerced(row, value)
        # Checks that involve several settings run at the end, in Settings itself.
        check_field(next(f for f in dataclasses.fields(Settings) if f.name == name), made)
    except (GeminateError, ValueError) as error:
        raise ParameterError(f"{source}: {error}") from None
    values[name] = made


def _coerced(row: Row, value: Any) -> Any:
    if row.several:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        return tuple(items) if isinstance(items, (list, tuple)) else items
    if row.size and isinstance(value, str):
        return parse_size(row.name, value)
    if not isinstance(value, str) or row.kind is str:
        return float(value) if row.kind is float and type(value) is int else value
    text = value.strip()
    if row.kind is bool:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise ParameterError(f"{row.name} must be true or false, not {value!r}")
    try:
        return row.kind(text)
    except ValueError:
        raise ParameterError(f"{row.name} must be {words(row.kind, False)}, not {value!r}") from None
