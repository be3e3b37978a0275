"""Byte counts as people write them."""

from __future__ import annotations

import re

from geminate.errors import ParameterError

_SIZE = re.compile(r"(\d+)\s*(|k|m|g|t)(i?b)?", re.IGNORECASE)


def parse_size(name: str, text: str) -> int:
    """Bytes of ``text``: a number, perhaps with KiB, MiB, GiB or TiB (or k, MB, ..., which mean the same).

    Args:
        name: of the setting, for the message.

    Raises:
        ParameterError: not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ParameterError(f"{name} must be a size such as 512MiB or 4GiB, not {text!r}")
    return int(match[1]) << (10 * " kmgt".index(match[2].lower() or " "))


def gigabytes(nbytes: float) -> str:
    """Bytes for people, in powers of ten as disks and hubs count them."""
    for size, unit, digits in ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "kB", 0)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.{digits}f} {unit}"
    return f"{nbytes:.0f} bytes"
