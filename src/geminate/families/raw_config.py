"""Where configurations come from: config.json and generation_config.json of a directory, or a GGUF file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geminate.checkpoint.gguf_file import read_gguf
from geminate.errors import ConfigError, ModelNotFoundError
from geminate.families.gguf_metadata import gguf_config, gguf_generation


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelNotFoundError: no such file. ConfigError: not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path.parent} is not a model: it has no {path.name}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} does not hold a JSON object")
    return value


def raw_config(source: Path) -> dict[str, Any]:
    """What config.json says, or would say for a GGUF file.

    Raises:
        GeminateError: with the cause and the way out.
    """
    return gguf_config(read_gguf(source)) if source.is_file() else read_json(source / "config.json")


def raw_generation(source: Path) -> dict[str, Any]:
    """What generation_config.json says; {} without one.

    Raises:
        GeminateError: with the cause and the way out.
    """
    if source.is_file():
        return gguf_generation(read_gguf(source))
    path = source / "generation_config.json"
    return read_json(path) if path.exists() else {}
