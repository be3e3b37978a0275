"""A fake hub that huggingface_hub, in this process, takes for the real one, and an empty cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from support.fabricate_gguf import to_gguf
from support.fake_hub import FakeHub
from support.pulling import DRAFTER, NAME


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Answers on 127.0.0.1; its storage is another host for the client, localhost."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)
        template = made.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield made
    huggingface_hub.close_session()


@pytest.fixture
def cache(hub: FakeHub, tmp_path: Path) -> Path:
    """The hub cache that downloads go to."""
    return tmp_path / "hub-cache"


@pytest.fixture
def pair(hub: FakeHub, models: dict[str, Path]) -> FakeHub:
    """A hub with target and drafter as directories."""
    hub.add(NAME, models["E2B"])
    hub.add(DRAFTER, models["E2B"].with_name("E2B-assistant"), base_model=NAME)
    return hub


@pytest.fixture(scope="module")
def gguf_files(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A GGUF repository: two quantizations by name, a drafter, a projector."""
    root = tmp_path_factory.mktemp("gguf")
    target = to_gguf(models["E2B"], root / "t.gguf").read_bytes()
    drafter = to_gguf(models["E2B"].with_name("E2B-assistant"), root / "d.gguf").read_bytes()
    return {
        "config.json": (models["E2B"] / "config.json").read_bytes(),
        "gemma-4-E2B-it-Q4_K_M.gguf": target,
        "gemma-4-E2B-it-Q8_0.gguf": target + b"\0",
        "mtp-gemma-4-E2B-it.gguf": drafter,
        "mmproj-F16.gguf": b"GGUF",
    }
