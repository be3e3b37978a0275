"""The command line. Importing it comes first in every command, so Ctrl-C is answered from here on."""

from __future__ import annotations

import sys
from types import TracebackType

_otherwise = sys.excepthook


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One word instead of a traceback where Ctrl-C comes while modules are loaded."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        _otherwise(kind, error, trace)


sys.excepthook = _uncaught
