"""Where a user's files belong: XDG's directories on Linux, ~/Library on macOS, AppData on Windows."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache() -> Path:
    """Of what can be made anew."""
    return platformdirs.user_cache_path("geminate", appauthor=False)


def data() -> Path:
    """Of what cannot."""
    return platformdirs.user_data_path("geminate", appauthor=False)
