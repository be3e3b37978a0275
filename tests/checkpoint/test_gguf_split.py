"""GGUF files in several parts: any part names the whole, and what is missing or mixed up is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from geminate import LLM
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf_file import gguf_architecture, read_gguf
from geminate.errors import GeminateError, WeightsError
from geminate.loading.locate import locate_model
from support.fabricate_gguf import to_gguf


def split(
    file: Path, directory: Path, parts: int, *, numbers: list[int] | None = None, count: int | None = None
) -> list[Path]:
    """A file in parts as gguf-split makes them: metadata in the first, tensors in turn."""
    reader = gguf.GGUFReader(file)
    size = -(-len(reader.tensors) // parts)
    made = []
    directory.mkdir(parents=True, exist_ok=True)
    for i in range(parts):
        path = directory / f"big-{i + 1:05d}-of-{parts:05d}.gguf"
        writer = gguf.GGUFWriter(path, "gemma4" if i == 0 else "")
        if i > 0:
            writer.kv_data[0].pop("general.architecture", None)
        for field in reader.fields.values():
            if i == 0 and not field.name.startswith("GGUF.") and field.name != "general.architecture":
                kinds = field.types
                writer.add_key_value(field.name, field.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
        writer.add_uint16("split.no", i if numbers is None else numbers[i])
        writer.add_uint16("split.count", parts if count is None else count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for t in reader.tensors[i * size : (i + 1) * size]:
            writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        made.append(path)
    return made


@pytest.fixture(scope="module")
def whole(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_gguf(models["E2B"], tmp_path_factory.mktemp("whole") / "big.gguf")


def test_any_part_names_the_whole(whole: Path, tmp_path: Path) -> None:
    parts = split(whole, tmp_path / "m", 3)
    want = LLM(whole, drafter=None).logits([2, 7, 30])
    for part in parts:
        assert gguf_architecture(part) == "gemma4"
        checkpoint = Checkpoint.open(part)
        assert checkpoint.name == "big" and checkpoint.path == parts[0]
        assert checkpoint.files == tuple(parts) and len(checkpoint.stamps) == 3
        assert np.array_equal(LLM(part, drafter=None).logits([2, 7, 30]), want)
    assert locate_model(tmp_path / "m") == parts[0]


def test_links_keep_their_names(whole: Path, tmp_path: Path) -> None:
    """As a hub cache has them: links with names to files without."""
    for i, part in enumerate(split(whole, tmp_path / "m", 2)):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        shutil.move(part, tmp_path / "blobs" / f"{i}")
        part.symlink_to(tmp_path / "blobs" / f"{i}")
    checkpoint = Checkpoint.open(tmp_path / "m" / "big-00002-of-00002.gguf")
    assert len(checkpoint.tensors) == len(Checkpoint.open(whole).tensors)


def test_what_is_missing_or_mixed_up_is_named(whole: Path, tmp_path: Path) -> None:
    def refused(path: Path, says: str) -> None:
        with pytest.raises(WeightsError, match=says):
            read_gguf(path)

    parts = split(whole, tmp_path / "a", 3)
    parts[1].unlink()
    refused(parts[0], "big-00002-of-00003.gguf is missing; download all")
    renamed = split(whole, tmp_path / "b", 2)[0].rename(tmp_path / "b" / "other.gguf")
    refused(renamed, "one of 2 parts, but not named like one")
    refused(split(whole, tmp_path / "c", 2, numbers=[1, 0])[0], "says that it is part 1, counted from 0, of 2")
    refused(split(whole, tmp_path / "d", 2, count=40000)[0], "split.count is 40000")
    parts = split(whole, tmp_path / "e", 2)
    shutil.copyfile(split(whole, tmp_path / "f", 3)[1].rename(tmp_path / "f" / "x"), parts[1])
    refused(parts[0], "part 1, counted from 0, of 3")
    parts = split(whole, tmp_path / "g", 2)
    lone = split(to_gguf_small(tmp_path), tmp_path / "h", 2)
    shutil.copyfile(lone[1], parts[1])
    refused(parts[0], "tensors of")


def to_gguf_small(directory: Path) -> Path:
    """A file of two tensors."""
    path = directory / "two.gguf"
    writer = gguf.GGUFWriter(path, "gemma4")
    for name in ("x", "y"):
        writer.add_tensor(name, np.zeros((4, 4), np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def test_cut_parts_end_in_a_message(whole: Path, tmp_path: Path) -> None:
    parts = split(whole, tmp_path, 2)
    raw = parts[1].read_bytes()
    for i in range(20):
        parts[1].write_bytes(raw[: len(raw) * i // 20])
        with pytest.raises(GeminateError):
            LLM(parts[0], drafter=None, use_cache=False)
