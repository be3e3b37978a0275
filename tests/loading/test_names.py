"""Names of models that people bring from elsewhere: loaded where that is plain, else a message with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.errors import ConfigError, GeminateError, ModelNotFoundError, TokenizerError
from geminate.families.registry import load_target_config, open_model
from geminate.loading.load import load_pair
from geminate.loading.locate import is_model, locate_model
from geminate.loading.options import LoadOptions
from geminate.text.tokenizer import Tokenizer
from support.fabricate_gguf import to_gguf

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 10246621918\n"


def test_a_folder_with_one_gguf_model_is_that_model(models: dict[str, Path], tmp_path: Path) -> None:
    target = to_gguf(models["E2B"], tmp_path / "gemma-4-E2B-it-Q8_0.gguf")
    to_gguf(models["E2B"].with_name("E2B-assistant"), tmp_path / "mtp-gemma-4-E2B-it.gguf")
    projector = gguf.GGUFWriter(tmp_path / "mmproj-F16.gguf", "clip")
    projector.add_tensor("v.patch", np.zeros(4, np.float32))
    projector.write_header_to_file()
    projector.write_kv_data_to_file()
    projector.write_tensors_to_file()
    projector.close()
    assert locate_model(tmp_path) == target and is_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4"}))
    assert locate_model(tmp_path) == target, "GGUF repositories have a config.json too"
    assert load_pair(LoadOptions(model=tmp_path)).drafter is not None
    to_gguf(models["E4B"], tmp_path / "gemma-4-E4B-it.gguf")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models; name one of the files: gemma-4-E2B-it-Q8_0\.gguf"):
        locate_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "unsloth/gemma-4-E2B-it-GGUF:Q4_K_M",
            r"neither a directory here nor a model that was pulled; geminate pull unsloth/gemma-4-E2B-it-GGUF:Q4_K_M",
        ),
        ("hf.co/unsloth/gemma-4-E2B-it-GGUF:Q4_K_M", "geminate pull unsloth/gemma-4-E2B-it-GGUF:Q4_K_M downloads it"),
        ("https://huggingface.co/google/gemma-4-E2B-it", "geminate pull google/gemma-4-E2B-it downloads it"),
        ("hf.co/google/gemma-4-E2B-it", "geminate pull google/gemma-4-E2B-it downloads it"),
        ("gemma4:e2b", r"names like Ollama's are not known; did you mean gemma-4-E2B-it\?"),
        ("llama3:8b", "names like Ollama's are not known; name a directory"),
    ],
)
def test_names_of_other_engines(name: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=says):
        locate_model(name)


@pytest.mark.parametrize("with_config", [False, True])
def test_adapters(with_config: bool, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "google/gemma-4-E2B-it"})
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    if with_config:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4_text"}))
    with pytest.raises(ModelNotFoundError, match=r"adapter \(LORA\) of 'google/gemma-4-E2B-it'.*--adapter"):
        _ = open_model(locate_model(tmp_path)).tensors


def test_a_directory_around_the_model(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["E2B"], tmp_path / "checkpoint-100")
    with pytest.raises(ModelNotFoundError, match=r"did you mean .*checkpoint-100"):
        locate_model(tmp_path)


def test_weights_quantized_elsewhere(models: dict[str, Path]) -> None:
    config = json.loads((models["E2B"] / "config.json").read_text())
    for method in ("fp8", "compressed-tensors", "bitsandbytes"):
        with pytest.raises(ConfigError, match=rf"{method}.*bf16 checkpoint.*or a GGUF file"):
            load_target_config(config | {"quantization_config": {"quant_method": method, "bits": 4}})


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
)
def test_lfs_pointers(name: str, tmp_path: Path) -> None:
    embedded = Path(load_target_config.__code__.co_filename).parents[1] / "assets" / "embedded" / "target"
    copy = shutil.copytree(embedded, tmp_path / "copy")
    (copy / name).write_text(POINTER)
    with pytest.raises(GeminateError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        pair = load_pair(LoadOptions(model=copy, threads=1))
        assert pair.source is not None
        Tokenizer.load(pair.source.checkpoint, pair.source.family.dialect)


def test_lfs_pointers_of_other_files(tmp_path: Path) -> None:
    for name in ("model.gguf", "m/model.safetensors.index.json", "t/chat_template.jinja"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(POINTER)
    with pytest.raises(GeminateError, match=r"model\.gguf is a Git LFS pointer"):
        open_model(locate_model(tmp_path / "model.gguf"))
    with pytest.raises(GeminateError, match=r"index\.json is a Git LFS pointer"):
        _ = Checkpoint.open(tmp_path / "m").files
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja is a Git LFS pointer"):
        Checkpoint.open(tmp_path / "t").templates()


def rewritten(source: Path, where: Path, *, without: str = "", more: dict[str, np.ndarray] | None = None) -> Path:
    """A GGUF file again, without a tensor or with further ones."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(where, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for tensor in reader.tensors:
        if tensor.name != without:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return where


def test_gguf_without_the_rope_factors_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    whole = to_gguf(models["E2B"], tmp_path / "whole.gguf")
    broken = rewritten(whole, tmp_path / "broken.gguf", without="rope_freqs.weight")
    with pytest.raises(ConfigError, match=r"broken\.gguf lacks rope_freqs\.weight"):
        load_pair(LoadOptions(model=broken, drafter=None))


def test_gguf_with_vision_and_audio_inside(models: dict[str, Path], tmp_path: Path) -> None:
    whole = to_gguf(models["E2B"], tmp_path / "whole.gguf")
    towers = {
        "v.patch_embd.weight": np.zeros((4, 8), np.float32),
        "a.conv1d.0.weight": np.zeros((4, 8), np.float32),
        "mm.input_projection.weight": np.zeros((4, 8), np.float32),
    }
    said: list[str] = []
    pair = load_pair(
        LoadOptions(model=rewritten(whole, tmp_path / "ollama.gguf", more=towers), drafter=None), on_message=said.append
    )
    assert pair.target.store.skipped == {"vision and audio towers": (3, 384)}
    assert [line for line in said if "skipped" in line] == ["skipped 3 tensors (0.0 MB): vision and audio towers"]
    strange = rewritten(whole, tmp_path / "strange.gguf", more={"x.surprise": np.zeros((4, 8), np.float32)})
    with pytest.raises(GeminateError, match=r"x\.surprise"):
        load_pair(LoadOptions(model=strange, drafter=None))
