"""Standard output and error."""

from __future__ import annotations

import io
import sys


def write_utf8() -> None:
    """Let pipes and files get UTF-8 on Windows too, whose code pages lack most characters; elsewhere locales decide."""
    if sys.platform == "win32":
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
                stream.reconfigure(encoding="utf-8")
