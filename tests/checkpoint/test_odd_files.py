"""Files that once hung the loading, filled the memory or escaped as other exceptions: each is refused, by name."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf_file import GgufFile, is_gguf, read_gguf
from geminate.checkpoint.gguf_tokenizer import gguf_tokenizer
from geminate.checkpoint.json_file import read_object
from geminate.checkpoint.safetensors_reader import MAX_HEADER, checkpoint_files, read_header
from geminate.errors import ConfigError, GeminateError, TokenizerError, WeightsError
from geminate.families.decoder.fields import DECODER, Integer
from geminate.families.registry import load_target_config
from geminate.loading.load import load_pair
from geminate.loading.locate import is_model, locate_model
from geminate.loading.options import LoadOptions
from geminate.text.tokenizer import Tokenizer
from support.fabricate import text_settings
from support.tiny_tokenizer import EMBEDDED, backend


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Every test of this file ends within seconds, and no message is long."""
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < 10


def refused(kind: type[GeminateError], says: str, call: Any, *args: Any) -> None:
    with pytest.raises(kind, match=says) as caught:
        call(*args)
    assert len(str(caught.value)) < 1000


@pytest.fixture(params=["pipe", "device"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Makes a file of a name that never ends."""

    def make(name: str) -> Path:
        path = tmp_path / name
        if request.param == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        return path

    return make


def test_only_regular_files_are_read(endless: Any) -> None:
    refused(ConfigError, r"config\.json: it is no regular file", read_object, endless("config.json"))
    weights = endless("model.safetensors")
    refused(WeightsError, "no regular file", read_header, weights)
    refused(WeightsError, "no regular file", checkpoint_files, endless("model.safetensors.index.json").parent)
    gguf = endless("model.gguf")
    assert not is_gguf(gguf) and not is_model(str(gguf))
    refused(WeightsError, "no regular file", read_gguf, gguf)
    refused(GeminateError, "is a file|no regular file", lambda: load_target_config(locate_model(gguf)))


def test_sizes_are_bounded(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    with config.open("wb") as file:
        file.truncate(65 << 20)
    refused(ConfigError, "67,108,864 are allowed", read_object, config)
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(MAX_HEADER + 100)
    refused(WeightsError, "has a header of", read_header, weights)


def flat(**changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    ropes = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": rope}
    return {**text_settings("E2B"), "model_type": "gemma4_text", "rope_parameters": ropes, **changes}


INTEGERS = [name for name, kind in DECODER.items() if isinstance(kind, Integer)]


@pytest.mark.parametrize("value", [10**9, 2**62, 10**4200])
@pytest.mark.parametrize("name", INTEGERS)
def test_every_count_and_length_is_bounded(name: str, value: int) -> None:
    changes: dict[str, Any] = {name: value, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
    changes |= {"moe_intermediate_size": 16, "attention_k_eq_v": True, "num_global_key_value_heads": 1, name: value}
    if name == "num_hidden_layers":
        changes["layer_types"] = None
    raw = {k: v for k, v in flat(**changes).items() if k != "per_layer_config"}
    if DECODER[name].most >= value:  # type: ignore[union-attr]
        load_target_config(raw)
    else:
        refused(ConfigError, name, load_target_config, raw)


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma4_text"])
def test_a_billion_layers(kind: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    raw = {"model_type": kind, **sizes, "num_hidden_layers": 10**9}
    refused(ConfigError, "num_hidden_layers is 1000000000; at most 10,000", load_target_config, raw)


LONG = "x" * 1_000_000
ODD = [
    {"per_layer_config": {"9" * 5000: {}}},
    {"per_layer_config": {"0" * 4999 + "1": {}}},
    {"per_layer_config": {"1": {LONG: 1}}},
    {"layer_types": [LONG] * 35},
    {"eos_token_id": [LONG]},
    {"eos_token_id": [10**5000]},
    {"eos_token_id": list(range(100_000))},
    {"hidden_size": LONG},
    {"hidden_size": [[1] * 1000] * 1000},
    {"hidden_activation": LONG},
    {"dtype": LONG},
    {"model_type": LONG},
    {"rms_norm_eps": 10**5000},
    {"rms_norm_eps": LONG},
    {"rope_parameters": {"sliding_attention": {"rope_type": LONG}, "full_attention": {}}},
    {"final_logit_softcapping": -(10**400)},
]


@pytest.mark.parametrize("changes", ODD, ids=range(len(ODD)))
def test_messages_of_odd_values_are_short(changes: dict[str, Any]) -> None:
    raw = flat(**changes)
    if isinstance(changes.get("layer_types"), list):
        raw["layer_types"] = [LONG] * raw["num_hidden_layers"]
    refused(ConfigError, ".", load_target_config, raw)


def test_long_names_in_headers_are_shortened(tmp_path: Path) -> None:
    for entry in ({"dtype": LONG}, {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 8]}):
        header = json.dumps({LONG: {"shape": [1], "data_offsets": [0, 4], **entry}}).encode()
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        refused(WeightsError, "tensor", read_header, tmp_path / "m.safetensors")


def scored(tokens: list[str]) -> GgufFile:
    """A `llama` tokenizer."""
    tokens = ["<unk>", *tokens]
    values = {
        "model": "llama", "tokens": tokens, "scores": np.zeros(len(tokens), np.float32), "unknown_token_id": 0,
        "token_type": np.array([2, *[1] * (len(tokens) - 1)], np.int32), "add_space_prefix": False,
    }  # fmt: skip
    return GgufFile(path=Path("x.gguf"), metadata={f"tokenizer.ggml.{k}": v for k, v in values.items()}, tensors={}, parts=())


def test_tokens_of_gguf_files_are_bounded() -> None:
    refused(TokenizerError, r"x\.gguf: a token has 400,000 characters", gguf_tokenizer, scored(["a" * 400_000]))
    assert gguf_tokenizer(scored(["a", "a" * 1000])) is not None
    made = scored(["a", " ", "b" * 1000])
    made.metadata["tokenizer.ggml.model"] = "gemma4"
    for merge in (" " * 400_000, "a" + " " * 1000 + "a", "c" * 400_000 + " a"):
        made.metadata["tokenizer.ggml.merges"] = [merge] * 50
        refused(TokenizerError, r"x\.gguf: merge", gguf_tokenizer, made)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("temperature", "hot"), ("top_k", -3), ("top_k", 2**63), ("top_k", 10**30), ("top_p", 0),
     ("top_p", 7), ("top_k", 1.5), ("temperature", 10**4200), ("top_p", [1] * 1000)],
)  # fmt: skip
def test_bad_sampling_is_refused_at_load(copy: Path, field: str, value: object) -> None:
    path = copy / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, field: value}))
    refused(ConfigError, rf"generation_config\.json: {field} must be", load_target_config, copy)


def test_a_tokenizer_with_dropout_is_refused(copy: Path) -> None:
    path = copy / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    for dropout, legal in ((0.1, False), (None, True), (0.0, True)):
        whole["model"]["dropout"] = dropout
        path.write_text(json.dumps(whole), encoding="utf-8")
        if legal:
            assert Tokenizer.load(Checkpoint.open(copy)) is not None
        else:
            refused(TokenizerError, "dropout 0.1, which makes prompts random", Tokenizer.load, Checkpoint.open(copy))
    assert Tokenizer(backend()).encode("hello") == Tokenizer(backend()).encode("hello")


def test_a_configuration_of_other_tensors_is_named_shortly(copy: Path) -> None:
    header = json.dumps({LONG: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(WeightsError, "misses tensors", lambda: load_pair(LoadOptions(model=copy, drafter=None)))
