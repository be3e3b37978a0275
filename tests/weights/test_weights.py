"""The packed cache, names and fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.checkpoint.packed_writer import PartWriter
from geminate.checkpoint.safetensors_reader import read_header
from geminate.errors import DrafterMismatchError, WeightsError
from geminate.families.registry import load_assistant_config, load_target_config, open_model
from geminate.runtime.compatibility import check_fit
from geminate.weights.opening import open_weights


def test_cache_is_kept_reused_and_rebuilt(models: dict[str, Path], tmp_path: Path) -> None:
    config = load_target_config(models["E2B"])
    said: list[str] = []

    def load():
        return open_weights(open_model(models["E2B"]), config, "int8", cache_dir=tmp_path, on_message=said.append)

    first = load()
    assert not first.from_cache and first.path is not None and first.path.parent == tmp_path
    assert [f.name for f in tmp_path.iterdir()] == [first.path.name], "no temporary file stays"
    want = first.embedding().dequantized()
    again = load()
    assert again.from_cache and np.array_equal(again.embedding().dequantized(), want)
    raw = first.path.read_bytes()
    damages = {
        "cut": raw[:-100],
        "header": raw[:-50] + b"\0" + raw[-49:],
        "start of an array": b"\xff" + raw[1:],
        "foreign": b"something else entirely" * 10,
        "empty": b"",
    }
    for what, damaged in damages.items():
        first.path.write_bytes(damaged)
        said.clear()
        rebuilt = load()
        assert not rebuilt.from_cache, what
        assert np.array_equal(rebuilt.embedding().dequantized(), want), what
        assert any("packing the weights again" in line for line in said), what
    os.utime(models["E2B"] / "model.safetensors")
    said.clear()
    assert not load().from_cache and "stale" in said[0]


def test_full_disk(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while packing: run without the cache, say so, leave nothing behind."""
    real = PartWriter.add
    calls = []

    def failing(self, name, *rest):  # type: ignore[no-untyped-def]
        calls.append(name)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        return real(self, name, *rest)

    monkeypatch.setattr(PartWriter, "add", failing)
    said: list[str] = []
    config = load_target_config(models["31B"])
    store = open_weights(open_model(models["31B"]), config, "int4", cache_dir=tmp_path, on_message=said.append)
    assert store.path is None and not list(tmp_path.iterdir())
    assert any("No space left on device" in line and "without the cache" in line for line in said)
    assert store.embedding().format == "int4"


def test_fit_names_every_reason(models: dict[str, Path]) -> None:
    target = load_target_config(models["E2B"])
    check_fit(target, load_assistant_config(models["E2B"].with_name("E2B-assistant")))
    with pytest.raises(DrafterMismatchError) as error:
        check_fit(target, load_assistant_config(models["12B"].with_name("12B-assistant")))
    for reason in ("backbone size 80", "KV heads of sliding_attention 2"):
        assert reason in str(error.value)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=0, max_size=300), cut=st.integers(0, 400))
def test_damaged_safetensors_never_crash(data: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    from safetensors.numpy import save

    whole = save({"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.zeros(3, np.int64)})
    mixed = whole[:cut] + data
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(mixed)
    try:
        entries = read_header(path)
    except WeightsError as error:
        assert "\n" not in str(error)
    else:
        for entry in entries:
            entry.map()


SCRIPT = """
import json, sys, threading, time
from pathlib import Path
from geminate.families.registry import load_target_config
from geminate.families.registry import open_model
from geminate.weights.opening import open_weights

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

d = Path(sys.argv[1])
config = load_target_config(d)
bare, peak, done = anonymous(), 0, False
def watch():  # inside tensors too, not only between them
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
store = open_weights(open_model(d), config, "int8", cache_dir=Path(sys.argv[2]))
done = True
watcher.join()
sizes = store.bytes_by_kind()
print(json.dumps([peak - bare, sum(sizes.values()), sizes["row_table"]]))
"""


def test_memory_while_packing(tmp_path: Path) -> None:
    """A 230 MB checkpoint, most of it the per-layer table: neither it nor the packed weights pile up in memory."""
    import json

    import torch
    from safetensors.torch import save_file

    from support.fabricate import text_settings

    settings_ = text_settings("E2B") | {"vocab_size": 60_000, "vocab_size_per_layer_input": 60_000}
    settings_ |= {"hidden_size": 256, "hidden_size_per_layer_input": 160, "model_type": "gemma4_text"}
    config = settings_ | {"dtype": "bfloat16"}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    from geminate.weights.specs import expected_tensors

    tensors = {
        f"model.{s.name}" if s.name.endswith("layer_scalar") else f"model.{s.name}.weight": torch.zeros(
            s.shape, dtype=torch.bfloat16
        )
        for s in expected_tensors(load_target_config(config))
    }
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "m"), str(tmp_path / "c")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    used, packed, table = json.loads(done.stdout)
    assert table > 95e6
    assert used < table / 2, "the per-layer table was resident as a whole"
    assert used < 1.5 * packed, (used, packed)
