"""Keeps what is typed from breaking a picture that is being redrawn."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from geminate.cli.terminal_windows import unechoed as unechoed
else:
    from geminate.cli.terminal_posix import unechoed as unechoed
