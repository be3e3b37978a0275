"""One real server for the session, with the embedded pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.browser import Browser, browsers
from support.serving import Served


@pytest.fixture(scope="session")
def served(packed_cache: Path) -> Iterator[Served]:
    """The shared server; tests leave it idle."""
    with Served() as server:
        yield server.ready()


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """An HTTP client of it."""
    with served.client() as made:
        yield made


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, shared; tests open the page anew."""
    yield from browsers(tmp_path_factory)
