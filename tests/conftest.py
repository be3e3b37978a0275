"""Fixtures: fabricated models of all sizes, made once a session, with a packed cache of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(2)
# Shared machines are slow at times, and a gate must not depend on luck.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate")
EMBEDDED = Path(__file__).resolve().parent.parent / "src" / "geminate" / "assets" / "embedded"


@pytest.fixture(scope="session", autouse=True)
def packed_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed weights of the tests stay out of the user's cache."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["GEMINATE_CACHE"] = str(path)
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """size -> directory of a random target; its drafter stands beside it as ``<size>-assistant``."""
    pytest.importorskip("transformers", reason="transformers makes these models; scripts/test-lowest runs without it")
    from support.fabricate import SIZES, make_drafter, make_target

    root = tmp_path_factory.mktemp("models")
    for size in SIZES:
        make_target(size, root / size)
        make_drafter(size, root / f"{size}-assistant")
    return {size: root / size for size in SIZES}
