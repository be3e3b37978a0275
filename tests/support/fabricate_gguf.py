"""Directories of `fabricate` and `fabricate_gemma3` as GGUF files, with names and metadata as llama.cpp's converter.

Tensor names come from the gguf package's own map, so that they are not checked against our table by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file, save_file

from support.blocks import quantized

OWN = {  # not in the package's map
    "pre_projection": "nextn.pre_projection.weight",
    "post_projection": "nextn.post_projection.weight",
    "masked_embedding.centroids": "masked_embd_centroids.weight",
    "masked_embedding.token_ordering": "masked_embd_ordering",
}


def gguf_name(name: str, names: gguf.TensorNameMap) -> str:
    """The converter's name of a transformers tensor."""
    if name.endswith(".router.scale"):
        return f"blk.{name.split('.')[2]}.ffn_gate_inp.scale"
    if name.endswith(".router.per_expert_scale"):
        return f"blk.{name.split('.')[2]}.ffn_down_exps.scale"
    bare = name.removesuffix(".weight")
    if bare in OWN:
        return OWN[bare]
    found = names.get_name(bare)
    assert found is not None, name
    return found + ".weight"


def to_gguf(
    source: Path, file: Path, matrix: T | Callable[[str], T] = T.F32, *, tokenizer: dict[str, Any] | None = None
) -> Path:
    """Write a model directory as GGUF; matrices whose rows fit into blocks get type ``matrix``, others F32.

    Args:
        matrix: a type, or the type by the tensor's name in the file.
        tokenizer: values under ``tokenizer.``, Python types as GGUFWriter takes them.
    """
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    assistant = "assistant" in config["model_type"]
    gemma3 = config["model_type"].startswith("gemma3")
    arch = "gemma3" if gemma3 else "gemma4-assistant" if assistant else "gemma4"
    writer = gguf.GGUFWriter(file, arch)
    _metadata(writer, arch, config, text)
    for key, value in (tokenizer or {}).items():
        _any(writer, f"tokenizer.{key}", value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3 if gemma3 else gguf.MODEL_ARCH.GEMMA4, 100)
    if not gemma3:
        rope, dim = text["rope_parameters"]["full_attention"], _full(text, "head_dim", "global_head_dim")
        turning = int(dim * rope.get("partial_rotary_factor", 1.0) / 2)
        writer.add_tensor("rope_freqs.weight", np.array([1.0] * turning + [1e30] * (dim // 2 - turning), np.float32))
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        bare = name.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
        if "vision" in name or "projector" in name:
            continue
        if bare.endswith("token_ordering"):
            writer.add_tensor(gguf_name(bare, names), tensor.numpy().astype(np.int32))
            continue
        values = tensor.float().numpy()
        if gemma3 and bare.endswith("norm.weight"):
            values = values + np.float32(1)
        name_there = gguf_name(bare, names)
        _add(writer, name_there, values, matrix if isinstance(matrix, T) else matrix(name_there))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def dequantized_copy(source: Path, directory: Path, matrix: T) -> Path:
    """The directory with the weights that its GGUF file in ``matrix`` has, in float32."""
    shutil.copytree(source, directory)
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if _fits(name, values, matrix):
            tensors[name] = torch.from_numpy(gguf.dequantize(quantized(values, matrix), matrix))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def _fits(name: str, values: np.ndarray, matrix: T) -> bool:
    weights, _ = gguf.GGML_QUANT_SIZES[matrix]
    plain = ("gate_inp", "centroids", "router")
    return values.ndim > 1 and values.shape[-1] % weights == 0 and not any(word in name for word in plain)


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, matrix: T) -> None:
    if matrix == T.F32 or not _fits(name, values, matrix):
        writer.add_tensor(name, values)
    elif matrix == T.BF16:
        bits = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint8)
        writer.add_tensor(name, bits, raw_shape=bits.shape, raw_dtype=T.BF16)
    else:
        writer.add_tensor(name, quantized(values, matrix), raw_dtype=matrix)


def _full(text: dict[str, Any], common: str, published: str) -> int:
    """A full layer's value, in the layout of the published files or of transformers."""
    if text.get(published) is not None:
        return int(text[published])
    full = text["layer_types"].index("full_attention")
    per_layer = {int(i): v for i, v in (text.get("per_layer_config") or {}).items()}
    return int(per_layer.get(full, {}).get(common, text[common]))


def _metadata(writer: gguf.GGUFWriter, arch: str, config: dict[str, Any], text: dict[str, Any]) -> None:
    layers, shared = text["num_hidden_layers"], text.get("num_kv_shared_layers") or 0
    ropes = text["rope_parameters"]
    numbers = {
        "context_length": text["max_position_embeddings"],
        "embedding_length": text["hidden_size"],
        "block_count": layers,
        "attention.head_count": text["num_attention_heads"],
        "attention.sliding_window": text["sliding_window"],
    }
    writer.add_float32(f"{arch}.rope.freq_base", ropes["full_attention"]["rope_theta"])
    writer.add_float32(f"{arch}.rope.freq_base_swa", ropes["sliding_attention"]["rope_theta"])
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", text["rms_norm_eps"])
    if text.get("final_logit_softcapping"):
        writer.add_float32(f"{arch}.final_logit_softcapping", text["final_logit_softcapping"])
    sliding = [kind == "sliding_attention" for kind in text["layer_types"]]
    if arch == "gemma3":
        numbers |= {
            "attention.key_length": text["head_dim"],
            "attention.value_length": text["head_dim"],
            "attention.head_count_kv": text["num_key_value_heads"],
            "feed_forward_length": text["intermediate_size"],
        }
        if ropes["full_attention"]["rope_type"] == "linear":
            writer.add_string(f"{arch}.rope.scaling.type", "linear")
            writer.add_float32(f"{arch}.rope.scaling.factor", ropes["full_attention"]["factor"])
        if sliding != [(i + 1) % 6 != 0 for i in range(layers)]:  # as written for other patterns
            writer.add_array(f"{arch}.attention.sliding_window_pattern", sliding)
    else:
        full, dim = _full(text, "head_dim", "global_head_dim"), text["head_dim"]
        numbers |= {
            "attention.shared_kv_layers": shared, "attention.key_length": full, "attention.value_length": full,
            "attention.key_length_swa": dim, "attention.value_length_swa": dim, "rope.dimension_count": full,
            "rope.dimension_count_swa": dim,
            "embedding_length_per_layer_input": text.get("hidden_size_per_layer_input") or 0,
        }  # fmt: skip
        writer.add_array(f"{arch}.attention.sliding_window_pattern", sliding)
        kv, full_kv = text["num_key_value_heads"], _full(text, "num_key_value_heads", "num_global_key_value_heads")
        if kv == full_kv:
            numbers["attention.head_count_kv"] = kv
        else:
            writer.add_array(f"{arch}.attention.head_count_kv", [kv if s else full_kv for s in sliding])
        width, double = text["intermediate_size"], text.get("use_double_wide_mlp")
        widths = [width * 2 if double and i >= layers - shared else width for i in range(layers)]
        writer.add_array(f"{arch}.feed_forward_length", widths)
        if text.get("enable_moe_block"):
            numbers |= {
                "expert_count": text["num_experts"],
                "expert_used_count": text["top_k_experts"],
                "expert_feed_forward_length": text["moe_intermediate_size"],
            }
        if arch == "gemma4-assistant":
            numbers |= {"embedding_length_out": config["backbone_hidden_size"], "nextn_predict_layers": layers}
    for key, value in numbers.items():
        writer.add_uint32(f"{arch}.{key}", value)


def _any(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
