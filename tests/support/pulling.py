"""What the tests of `pull` share: names, a file that is long enough to be cut, and calls that keep what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geminate.loading.hub.pull import Pulled, pull
from geminate.loading.hub.snapshots import PARTIAL
from support.fake_hub import FakeHub

NAME = "google/gemma-4-E2B-it"
DRAFTER = f"{NAME}-assistant"
GGUF = "unsloth/gemma-4-E2B-it-GGUF"
BIG = bytes(range(256)) * 4096  # a megabyte: downloads of it can be cut


def told(name: str, **more: Any) -> tuple[Pulled, list[str]]:
    said: list[str] = []
    return pull(name, on_message=said.append, **more), said


def weights(hub: FakeHub, repository: str = NAME) -> bytes:
    return hub.repositories[repository].files["model.safetensors"]


def partials(cache: Path) -> list[Path]:
    return list(cache.glob(f"models--*/blobs/*{PARTIAL}"))
