"""Names of GGUF files in several parts, as llama.cpp's gguf-split writes them: NAME-00001-of-00003.gguf and so on."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def whole_name(path: Path) -> str:
    """A file's name without suffix, and without its part number."""
    part = _PART.fullmatch(path.name)
    return path.stem if part is None else part["stem"]


def part_paths(path: Path, count: int) -> list[Path] | None:
    """All parts beside one of them, in order; None for a name that is none of ``count`` parts."""
    part = _PART.fullmatch(path.name)
    if part is None or int(part["count"]) != count or not 1 <= int(part["number"]) <= count:
        return None
    return [path.with_name(f"{part['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def first_part(path: Path) -> Path:
    """The first part of the file that ``path`` is a part of, if it stands beside it; else ``path``."""
    for place in dict.fromkeys((path, path.resolve())):  # a link's own name first
        part = _PART.fullmatch(place.name)
        if part is not None:
            first = place.with_name(f"{part['stem']}-00001-of-{part['count']}.gguf")
            if first.is_file():
                return first
    return path
