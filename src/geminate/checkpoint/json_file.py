"""JSON objects in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geminate.errors import ConfigError, GeminateError


def read_object(path: Path, error: type[GeminateError] = ConfigError) -> dict[str, Any] | None:
    """The JSON object in a file; None without the file.

    Raises:
        GeminateError: of the given type, if the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as cause:
        raise error(f"cannot read {path}: {cause}") from None
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value
