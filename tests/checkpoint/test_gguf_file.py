"""The GGUF header reader: what whole files say, what broken ones are told, and a fuzz that nothing crashes."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf_file import TYPES, is_gguf, read_gguf
from geminate.errors import GeminateError, WeightsError
from geminate.families.gemma4.dialect import DIALECT
from geminate.families.registry import load_target_config
from geminate.loading.drafters import locate_drafter
from geminate.loading.load import load_pair
from geminate.loading.locate import locate_model
from geminate.loading.options import LoadOptions
from geminate.text.tokenizer import Tokenizer
from support.cli import refused
from support.fabricate_gguf import to_gguf


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def whole(
    pairs: list[bytes], tensors: list[bytes], data: bytes, *, version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def test_types_are_those_of_the_gguf_package() -> None:
    for number, (name, weights, size) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == name and gguf.GGML_QUANT_SIZES[kind] == (weights, size)


def test_a_whole_file(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "gemma4")
    writer.add_uint32("a.u32", 7)
    writer.add_int8("a.i8", -7)
    writer.add_float32("a.f32", 1e-6)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "été")
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.texts", ["x", "", "▁y"])
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("a", a)
    writer.add_tensor("b", np.ones((2, 64), np.float32), raw_dtype=None)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    file = read_gguf(tmp_path / "x.gguf")
    m = file.metadata
    assert (m["a.u32"], m["a.i8"], m["a.f32"], m["a.bool"], m["a.text"]) == (7, -7, 1e-6, True, "été")
    assert m["a.numbers"].tolist() == [1, 2, 3] and m["a.texts"] == ["x", "", "▁y"]
    assert file.architecture == "gemma4" and file.tensors["a"].shape == (3, 4)
    raw = (tmp_path / "x.gguf").read_bytes()
    t = file.tensors["a"]
    assert raw[t.offset : t.offset + t.nbytes] == a.tobytes()


GOOD = tensor("t", [4], 0, 0)
ARCH = pair("general.architecture", 8, text("gemma4"))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"GGU", "not a GGUF"),
        (b"PK\3\4" + bytes(60), "not a GGUF"),
        (b"GGUF", "inside its header"),
        (b"GGUF" + struct.pack("<I", 3), "inside its header"),
        (whole([ARCH], [], b"", version=1), "version 1"),
        (whole([ARCH], [], b"", version=0x03000000), "big-endian"),
        (whole([ARCH], [], b"", counts=(1 << 60, 1)), "claims"),
        (whole([ARCH], [], b"", counts=(0, 1 << 60)), "claims"),
        (whole([ARCH], [], b"", counts=(1, 1)), "damaged"),
        (whole([ARCH, ARCH], [], b""), "stands twice"),
        (whole([pair("", 4, bytes(4))], [], b""), "no proper name"),
        (whole([pair("k", 99, bytes(4))], [], b""), "type 99"),
        (whole([struct.pack("<Q", 1 << 62)], [], bytes(99)), "claims"),
        (whole([pair("k", 8, struct.pack("<Q", 1 << 40))], [], b""), "claims"),
        (whole([pair("k", 9, struct.pack("<IQ", 8, 1 << 40))], [], b""), "claims"),
        (whole([pair("k", 9, struct.pack("<IQ", 4, 1 << 61))], [], b""), "claims"),
        (whole([pair("k", 9, struct.pack("<IQ", 9, 1))], [], b""), "type 9"),
        (whole([pair("k", 9, struct.pack("<IQ", 8, 2) + text("a") + struct.pack("<Q", 1 << 50))], [], b""), "claims"),
        (whole([pair("general.alignment", 4, struct.pack("<I", 0))], [], b""), "alignment"),
        (whole([pair("general.alignment", 4, struct.pack("<I", 48))], [], b""), "alignment"),
        (whole([pair("split.count", 2, struct.pack("<H", 3))], [], b""), "merge"),
        (whole([ARCH], [GOOD], bytes(15)), "ends at byte"),
        (whole([ARCH], [GOOD, tensor("t", [4], 0, 32)], bytes(64)), "twice"),
        (whole([ARCH], [GOOD, tensor("u", [4], 0, 0)], bytes(64)), "overlaps"),
        (whole([ARCH], [tensor("t", [4], 0, 8)], bytes(64)), "not aligned"),
        (whole([ARCH], [tensor("t", [], 0, 0)], bytes(64)), "axes"),
        (whole([ARCH], [tensor("t", [1, 1, 1, 1, 1], 0, 0)], bytes(64)), "axes"),
        (whole([ARCH], [tensor("t", [0], 0, 0)], bytes(64)), "shape"),
        (whole([ARCH], [tensor("t", [33], 8, 0)], bytes(64)), "blocks of 32"),
        (whole([ARCH], [tensor("t", [1 << 62, 1 << 62], 0, 0)], bytes(64)), "ends at byte"),
        (whole([ARCH], [tensor("t", [4], 0, 1 << 62)], bytes(64)), "ends at byte"),
        (whole([ARCH], [tensor("t", [4], 4, 0)], bytes(64)), "ggml type 4"),
        (whole([ARCH], [tensor("", [4], 0, 0)], bytes(64)), "no proper name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, raw: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        read_gguf(write(tmp_path / "x.gguf", raw))


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        assert not is_gguf(path)
        with pytest.raises(WeightsError, match="cannot read"):
            read_gguf(path)


@pytest.fixture(scope="module")
def small(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = {
        "ggml.model": "gemma4", "ggml.tokens": [f"x{i}" for i in range(512)], "ggml.token_type": [1] * 512,
        "ggml.merges": ["x 1"], "ggml.bos_token_id": 2, "ggml.add_space_prefix": False,
    }  # fmt: skip
    tokenizer["ggml.tokens"][-2:] = ["x", "1"]
    return to_gguf(models["E2B"], tmp_path_factory.mktemp("fuzz") / "m.gguf", tokenizer=tokenizer)


def use(path: Path) -> None:
    """All that a start does with a file, weights included."""
    load_pair(LoadOptions(model=path, drafter=None, use_cache=False, threads=1))
    Tokenizer.load(Checkpoint.open(path), DIALECT)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_fuzz_no_damage_crashes(small: Path, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Bytes changed, cut out, doubled, mostly in the header: a model that loads, or a GeminateError."""
    rng = random.Random(seed)
    raw = bytearray(small.read_bytes())
    header = read_gguf(small).tensors["rope_freqs.weight"].offset
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(header if rng.random() < 0.9 else len(raw))
        what = rng.randrange(5)
        if what == 0:
            raw[at] = rng.randrange(256)
        elif what == 1:
            raw[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            del raw[at : at + rng.randrange(1, 40)]
        elif what == 3:
            raw[at:at] = raw[at : at + rng.randrange(1, 40)]
        else:
            raw[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
    path = write(tmp_path_factory.mktemp("f") / "m.gguf", bytes(raw))
    try:
        use(path)
    except GeminateError as error:
        assert str(error)


def test_truncated_anywhere(small: Path, tmp_path: Path) -> None:
    raw = small.read_bytes()
    for i in range(40):
        cut = write(tmp_path / f"{i}.gguf", raw[: len(raw) * i // 40])
        with pytest.raises(GeminateError):
            use(cut)


def test_architectures_that_are_not_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", whole([pair("general.architecture", 8, text("llama"))], [GOOD], bytes(64)))
    with pytest.raises(GeminateError, match="'llama', which is not supported"):
        load_target_config(path)
    refused("generate", str(path), "hello", says="not supported")


def test_the_command_names_what_is_wrong(tmp_path: Path, small: Path) -> None:
    refused("generate", str(write(tmp_path / "e.gguf", b"")), "hello", says="empty")
    refused("generate", str(write(tmp_path / "h.gguf", small.read_bytes()[:5000])), "hello", says="download it again")
    refused("generate", str(tmp_path / "none.gguf"), "hello", says="no such")
    refused("generate", str(write(tmp_path / "x.bin", b"abc")), "hello", says="no GGUF")
    refused("generate", str(small), "a", "b", says="quote the prompt")


def test_where_files_and_their_drafters_are_found(tmp_path: Path, small: Path, models: dict[str, Path]) -> None:
    model = tmp_path / "gemma-Q4_0.gguf"
    model.write_bytes(small.read_bytes())
    assert locate_model(model) == model
    assert locate_drafter(str(model), model, "auto") is None
    drafter = to_gguf(models["E2B"].with_name("E2B-assistant"), tmp_path / "gemma-assistant-Q8_0.gguf")
    assert locate_drafter(str(model), model, "auto") == drafter
    assert locate_drafter(str(model), model, None) is None
    other = tmp_path / "other.gguf"
    other.write_bytes(drafter.read_bytes())
    assert locate_drafter(str(model), model, "auto") == drafter, "of several that fit, the one named like the model"
    exact = tmp_path / "gemma-Q4_0-assistant.gguf"
    exact.write_bytes(drafter.read_bytes())
    assert locate_drafter(str(model), model, "auto") == exact
    with pytest.raises(GeminateError, match="is a drafter"):
        load_pair(LoadOptions(model=drafter))
