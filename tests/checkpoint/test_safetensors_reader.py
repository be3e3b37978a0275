"""The safetensors reader: every dtype, shards, and damage of every kind."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from geminate.checkpoint.safetensors_reader import checkpoint_files, read_files, read_header
from geminate.errors import ModelNotFoundError, WeightsError


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def tensor(begin: int = 0, end: int = 4, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_floats_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.randn(5, 7, dtype=torch.float32).to(dtype)
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), "x": x, "s": x[0, 0].clone()}, tmp_path / "m.safetensors")
    entries = read_files(checkpoint_files(tmp_path))
    assert np.array_equal(entries["x"].rows(1, 4), x[1:4].float().numpy())
    assert entries["s"].shape == () and entries["s"].map().shape == ()


def test_integers_and_empty(tmp_path: Path) -> None:
    kept = {"a": torch.arange(6), "b": torch.arange(6, dtype=torch.int32), "none": torch.zeros(0, 4)}
    save_file(kept, tmp_path / "m.safetensors")
    for name, entry in read_files(checkpoint_files(tmp_path)).items():
        assert np.array_equal(entry.map(), kept[name].numpy())
        assert not entry.map().flags.writeable or entry.nbytes == 0


DAMAGE = {
    "overlap": ({"a": tensor(0, 4), "b": tensor(2, 6)}, 6, "overlaps"),
    "hole": ({"a": tensor(0, 4), "b": tensor(8, 12)}, 12, "belong to none"),
    "trailing": ({"a": tensor()}, 9, "5 bytes behind its last tensor"),
    "short data": ({"a": tensor()}, 3, "is truncated"),
    "size": ({"a": tensor(0, 8)}, 8, "has 8 bytes for shape"),
    "dtype unknown": ({"a": tensor(dtype="F4")}, 4, "dtype F4"),
    "dtype list": ({"a": tensor(dtype=[])}, 4, "bad header entry"),
    "bool shape": ({"a": tensor(shape=[True])}, 4, "bad header entry"),
    "negative": ({"a": tensor(-4, 0)}, 4, "bad header entry"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, 4, "bad header entry"),
    "not an object": ([1], 4, "not an object"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 4, "not JSON"),
    "not UTF-8": (b"\xff\xfe{}", 4, "not JSON"),
    "two of one name": (b'{"a":%b,"a":%b}' % ((json.dumps(tensor()).encode(),) * 2), 4, "not JSON"),
    "newline": ({"a\n": tensor(0, 8)}, 8, "a\\\\n"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage(what: str, tmp_path: Path) -> None:
    header, size, says = DAMAGE[what]
    with pytest.raises(WeightsError, match=says) as error:
        read_header(write(tmp_path / "m.safetensors", header, b"\0" * size))
    assert "\n" not in str(error.value)


def test_header_length_beyond_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"x" * 50)
    with pytest.raises(WeightsError, match="its header claims"):
        read_header(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [3, ["m"], "../m.safetensors", "/etc/hostname", ".", ""])
def test_index_names_files_of_its_directory_only(value: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": value}}))
    with pytest.raises(WeightsError, match="no weight_map of file names"):
        checkpoint_files(tmp_path)


def test_shards(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no safetensors weights"):
        checkpoint_files(tmp_path)
    for name in ("x", "y"):
        save_file({name: torch.ones(2)}, tmp_path / f"{name}.safetensors")
    assert set(read_files(checkpoint_files(tmp_path))) == {"x", "y"}, "several files need no index"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "x.safetensors", "z": "z.safetensors"}}))
    with pytest.raises(WeightsError, match=r"lacks z\.safetensors"):
        checkpoint_files(tmp_path)
    index.unlink()
    save_file({"x": torch.ones(2)}, tmp_path / "z.safetensors")
    with pytest.raises(WeightsError, match="stands in two files"):
        read_files(checkpoint_files(tmp_path))
