"""What a terminal shows of what `geminate.cli.wrap.Wrapping` writes."""

from __future__ import annotations

import re

from rich.cells import cell_len

TOKEN = re.compile(r"\x1b\[(\d+)D\x1b\[K|(.)", re.DOTALL)


def screen(written: str, width: int) -> list[str]:
    """The lines that a terminal shows."""
    lines = [""]
    for match in TOKEN.finditer(written):
        if match[1]:
            kept = lines[-1]
            while cell_len(lines[-1]) - cell_len(kept) < int(match[1]):
                kept = kept[:-1]
            lines[-1] = kept
        elif match[2] == "\n":
            lines.append("")
        else:
            lines[-1] += match[2]
            assert cell_len(lines[-1]) < width, "nothing reaches the last column"
    return lines
