"""The packed cache: what goes wrong while writing, what is left behind, what is never copied."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from geminate.checkpoint.safetensors_reader import checkpoint_files, read_files
from geminate.errors import StorageError
from geminate.families.registry import load_target_config, open_model
from geminate.weights import opening
from geminate.weights.cache import cache_directory
from geminate.weights.opening import open_weights
from support.fabricate import make_target


def test_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("GEMINATE_CACHE", str(tmp_path / "g"))
    assert cache_directory(tmp_path) == tmp_path
    assert cache_directory() == tmp_path / "g"
    monkeypatch.delenv("GEMINATE_CACHE")
    assert cache_directory() == tmp_path / "x" / "geminate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "geminate"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_after_the_last_byte(
    call: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems report a full disk only when the file is synced, or refuse to rename it."""

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, failing)
    said: list[str] = []
    config = load_target_config(models["31B"])
    store = open_weights(open_model(models["31B"]), config, "int8", cache_dir=tmp_path, on_message=said.append)
    assert store.path is None and not list(tmp_path.iterdir())
    assert store.embedding().n == config.vocab_size
    assert sum("running without the cache" in line for line in said) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_full_disk_names_what_has_to_be_changed(
    kept: bool, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(opening, "pack_all", full)
    config = load_target_config(models["31B"])
    with pytest.raises(StorageError) as failed:
        open_weights(open_model(models["31B"]), config, "int8", cache_dir=cache, use_cache=kept)
    said = str(failed.value)
    assert f"a temporary file in {temporary}: No space left" in said
    assert ("GEMINATE_CACHE" in said, "TMPDIR" in said) == (kept, not kept)
    assert (f"free some space in {cache if kept else temporary}," in said) and not list(temporary.iterdir())


def test_per_layer_table_is_read_in_place_in_bf16(tmp_path: Path) -> None:
    directory = make_target("E4B", tmp_path / "m", dtype=torch.bfloat16)
    config = load_target_config(directory)
    entry = read_files(checkpoint_files(directory))["model.embed_tokens_per_layer.weight"]
    rows = np.array([511, 0, 7], np.int32)
    want = np.stack([entry.rows(r, r + 1)[0] for r in rows])
    cache = tmp_path / "c"
    stores = [open_weights(open_model(directory), config, "bf16", cache_dir=cache) for _ in range(2)]
    stores.append(open_weights(open_model(directory), config, "bf16", use_cache=False))
    assert [store.from_cache for store in stores] == [False, True, False]
    for store in stores:
        table = store.row_table("embed_tokens_per_layer")
        assert table.format == "bf16" and np.array_equal(table.dequantized_rows(rows), want)
        assert store.bytes_by_kind()["row_table"] == entry.nbytes
        assert not table.planes["codes"].flags.owndata, "mapped, not read into memory"
    (file,) = cache.iterdir()
    assert entry.map().tobytes() not in file.read_bytes(), "the table is not in the cache file"


def test_one_file_for_a_model_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, cache = make_target("E2B", tmp_path / "gemma"), tmp_path / "cache"
    config = load_target_config(directory)
    (tmp_path / "link").symlink_to(directory)
    monkeypatch.chdir(directory)
    names = (directory, tmp_path / "link", Path())
    stores = [open_weights(open_model(name), config, "int8", cache_dir=cache) for name in names]
    assert [store.from_cache for store in stores] == [False, True, True]
    assert [path.name.startswith("gemma-") for path in cache.iterdir()] == [True]
