"""Damage anywhere in the packed weights is found, and whoever else could have written them is not believed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from geminate import LLM
from geminate.checkpoint.packed_file import BLOCK
from geminate.errors import WeightsError
from support import fabricate
from support.cache_files import arrays_of, flip, header_of, with_header
from support.cli import geminate


@pytest.fixture
def cache(tmp_path: Path, models: dict[str, Path]) -> Path:
    LLM(models["E2B"], drafter=None, cache_dir=tmp_path, threads=1).close()
    [file] = tmp_path.glob("*.geminate")
    return file


def reopened(cache: Path, models: dict[str, Path]) -> tuple[LLM, list[str]]:
    said: list[str] = []
    llm = LLM(models["E2B"], drafter=None, cache_dir=cache.parent, threads=1, on_message=said.append)
    return llm, said


def test_a_flipped_byte_anywhere_is_found(cache: Path, models: dict[str, Path]) -> None:
    whole = cache.read_bytes()
    rng = random.Random(1)
    arrays = [a for a in arrays_of(cache).values() if a["nbytes"] > 0]
    for _ in range(40):
        array = rng.choice(arrays)
        at = array["offset"] + rng.randrange(array["nbytes"])
        cache.write_bytes(whole)
        flip(cache, at, rng.randrange(8))
        llm, said = reopened(cache, models)
        if not any("packing the weights again" in line for line in said):
            with pytest.raises(WeightsError, match="damaged in"):
                llm.check_weights()
            assert not cache.exists(), "the next start packs them again"
        cache.write_bytes(whole)
    llm, said = reopened(cache, models)
    assert llm.pair.target.store.from_cache
    llm.check_weights()


def test_check_packs_damaged_weights_again(cache: Path, models: dict[str, Path]) -> None:
    whole = cache.read_bytes()
    arrays = {name: array for name, array in arrays_of(cache).items() if "per_layer" not in name}
    largest = max(arrays.values(), key=lambda array: array["nbytes"])
    flip(cache, largest["offset"] + largest["nbytes"] // 2)
    said: list[str] = []
    llm = LLM(
        models["E2B"], drafter=None, cache_dir=cache.parent, threads=1, verify_weights=True, on_message=said.append
    )
    assert any("damaged in" in line and "packing the weights again" in line for line in said)
    assert not llm.pair.target.store.from_cache and cache.read_bytes() == whole
    said.clear()
    LLM(models["E2B"], drafter=None, cache_dir=cache.parent, threads=1, verify_weights=True, on_message=said.append)
    assert not [line for line in said if not line.startswith("drafter: ")]


def test_verify_and_info_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = fabricate.text_settings("31B") | {"vocab_size": 4096}
    monkeypatch.setattr(fabricate, "text_settings", lambda size: settings)
    wide, env = str(fabricate.make_target("31B", tmp_path / "wide")), {"GEMINATE_CACHE": str(tmp_path / "cache")}
    assert geminate("info", wide, "--drafter", "none", env=env).returncode == 0
    [file] = (tmp_path / "cache").glob("*.geminate")
    # In the middle of the largest array, past what every open looks at.
    largest = max(arrays_of(file).values(), key=lambda a: a["nbytes"])
    assert largest["nbytes"] > 3 * BLOCK
    flip(file, largest["offset"] + largest["nbytes"] // 2)
    done = geminate("verify", wide, "--drafter", "none", "-n", "4", "--limit", "1", "--json", env=env)
    assert done.returncode == 2 and "damaged in" in done.stderr and not done.stdout
    assert not file.exists()


def test_a_file_that_others_can_write_is_packed_again(cache: Path, models: dict[str, Path]) -> None:
    cache.chmod(0o666)
    llm, said = reopened(cache, models)
    assert not llm.pair.target.store.from_cache and any("written by other users" in line for line in said)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_packed_again(cache: Path, models: dict[str, Path]) -> None:
    os.chown(cache, 65534, 65534)
    llm, said = reopened(cache, models)
    assert not llm.pair.target.store.from_cache and any("belongs to user 65534" in line for line in said)


@pytest.mark.parametrize("what", ["list", "no arrays", "bad dtype", "bad shape", "no meta", "offset", "block"])
def test_a_forged_header_ends_in_packing(what: str, cache: Path, models: dict[str, Path]) -> None:
    header = header_of(cache)
    part = header["parts"]["target"]
    first = next(iter(part["arrays"].values()))
    if what == "list":
        part["arrays"] = [1, 2]
    elif what == "no arrays":
        del part["arrays"]
    elif what == "bad dtype":
        first["dtype"] = "nonsense"
    elif what == "bad shape":
        first["shape"] = [10**9]
    elif what == "no meta":
        part["tensors"] = None
    elif what == "block":
        first["block"] = 1 << 40
    else:
        first["offset"] = -(10**12)
    cache.write_bytes(with_header(cache.read_bytes(), header))
    llm, said = reopened(cache, models)
    assert not llm.pair.target.store.from_cache and any("packing the weights again" in line for line in said)


def test_a_model_replaced_in_place_with_the_same_time_is_seen(tmp_path: Path, models: dict[str, Path]) -> None:
    model, cache = tmp_path / "model", tmp_path / "cache"
    model.mkdir()
    for file in models["E2B"].iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    weights = model / "model.safetensors"
    LLM(model, drafter=None, cache_dir=cache, threads=1).close()
    stat = weights.stat()
    weights.write_bytes(weights.read_bytes())
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not LLM(model, drafter=None, cache_dir=cache, threads=1).pair.target.store.from_cache
