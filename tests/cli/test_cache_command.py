"""``geminate cache``: what is packed on this disk, what can go, and what is in use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from geminate import LLM
from geminate.loading.locate import embedded_pair
from support.cli import geminate, refused


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"GEMINATE_CACHE": str(tmp_path / "cache"), "HF_HUB_CACHE": str(tmp_path / "hub")}


def test_an_empty_cache(env: dict[str, str], tmp_path: Path) -> None:
    done = geminate("cache", env=env)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'cache'}: 0 bytes of packed weights, limited to 68.72 GB (GEMINATE_CACHE_LIMIT)" in done.stdout
    assert f"{tmp_path / 'hub'}: 0 bytes of pulled models" in done.stdout
    refused("cache", "--clear", "--prune", says="name one of them", env=env)


def test_what_belongs_to_what_and_what_can_go(env: dict[str, str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        model = shutil.copytree(embedded_pair()[0], tmp_path / name)
        LLM(str(model), drafter=None, threads=1, cache_dir=tmp_path / "cache").close()
    shutil.rmtree(tmp_path / "two")
    body = json.loads(geminate("cache", "--json", env=env).stdout)
    found = {Path(file["model"]).name: file for file in body["files"]}
    assert {name: file["orphaned"] for name, file in found.items()} == {"one": False, "two": True}
    assert all(file["part"] == "target" and file["weights"] and file["usable"] for file in found.values())
    shown = geminate("cache", env=env).stdout
    assert f"{tmp_path / 'two'} (target" in shown and "its checkpoint is gone" in shown
    pruned = json.loads(geminate("cache", "--prune", "--json", env=env).stdout)
    assert [Path(file["model"]).name for file in pruned["files"]] == ["one"]
    assert pruned["freed_bytes"] >= found["two"]["bytes"] > 0
    llm = LLM(str(tmp_path / "one"), drafter=None, threads=1, cache_dir=tmp_path / "cache")
    kept = geminate("cache", "--clear", env=env)
    assert "is in use" in kept.stderr and "removed 0 bytes" in kept.stdout, "what is mapped stays"
    llm.close()
    del llm
    limit = geminate("cache", env={**env, "GEMINATE_CACHE_LIMIT": "none"}).stdout
    assert "without limit" in limit and os.listdir(tmp_path / "cache")
