"""Write GGUF files of the real E2B shape and of its drafter with random weights, for llama.cpp.

Usage: python write_gguf.py --out FILE [--assistant FILE] [--layers N] [--format q4_0]

Every matrix, the tied head and the per-layer table have the same format, so that a pass reads as many bits a weight
as ours; q4_k_m is llama.cpp's mix, with Q8_0 where files have BF16, since ours is int8 there. Norms are float32.
llama.cpp does not read the drafter's centroid head, so it is left out. The tokenizer is 262144 made-up words: feed
token ids. 2.6 GB, and 44 MB for the drafter, in q4_0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from e2b_shape import LAYERS, drafter_config, text_config
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType

NOISE_BLOCKS = (1 << 19) + 9  # odd, so that equal rows of a table are far apart
SPREAD = 0.02
FORMATS = {"q4_0": GGMLQuantizationType.Q4_0, "q8_0": GGMLQuantizationType.Q8_0}
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}
# Where the float16 numbers of a block stand, and the standard deviation of codes times small scales.
HALVES = {"Q4_0": ((0,), 4.6), "Q8_0": ((0,), 74.0), "Q4_K": ((0, 2), 240.0), "Q5_K": ((0, 2), 490.0),
          "Q6_K": ((208,), 1370.0)}  # fmt: skip
Tensor = tuple[str, tuple[int, ...]]


def layer_tensors(config: dict[str, Any], index: int) -> Iterator[Tensor]:
    """Names and shapes of one layer; a shape of one axis is a norm or a scale."""
    hidden, ple = config["hidden_size"], config["hidden_size_per_layer_input"]
    full = config["layer_types"][index] == "full_attention"
    dim = config["global_head_dim"] if full else config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    shared = index >= config["num_hidden_layers"] - config["num_kv_shared_layers"]
    width = config["intermediate_size"] * (2 if shared and config["use_double_wide_mlp"] else 1)
    at = f"blk.{index}"
    for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        yield f"{at}.{norm}.weight", (hidden,)
    yield f"{at}.attn_q.weight", (q, hidden)
    yield f"{at}.attn_q_norm.weight", (dim,)
    if not shared:
        yield f"{at}.attn_k.weight", (kv, hidden)
        yield f"{at}.attn_v.weight", (kv, hidden)
        yield f"{at}.attn_k_norm.weight", (dim,)
    yield f"{at}.attn_output.weight", (hidden, q)
    yield f"{at}.ffn_gate.weight", (width, hidden)
    yield f"{at}.ffn_up.weight", (width, hidden)
    yield f"{at}.ffn_down.weight", (hidden, width)
    yield f"{at}.layer_output_scale.weight", (1,)
    if ple:
        yield f"{at}.inp_gate.weight", (ple, hidden)
        yield f"{at}.proj.weight", (hidden, ple)
        yield f"{at}.post_norm.weight", (hidden,)


def all_tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    """Names and shapes of a model, rows first."""
    hidden, vocab, ple = config["hidden_size"], config["vocab_size"], config["hidden_size_per_layer_input"]
    yield "token_embd.weight", (vocab, hidden)
    yield "output_norm.weight", (hidden,)
    yield "rope_freqs.weight", (config["global_head_dim"] // 2,)
    if ple:
        width = config["num_hidden_layers"] * ple
        yield "per_layer_token_embd.weight", (vocab, width)
        yield "per_layer_model_proj.weight", (width, hidden)
        yield "per_layer_proj_norm.weight", (ple,)
    backbone = config.get("backbone_hidden_size")
    if backbone:
        yield "nextn.pre_projection.weight", (hidden, 2 * backbone)
        yield "nextn.post_projection.weight", (backbone, hidden)
    for index in range(config["num_hidden_layers"]):
        yield from layer_tensors(config, index)


def vector(name: str, size: int, config: dict[str, Any]) -> np.ndarray:
    """Ones; for the full layers' rope, which turns a quarter of the dimensions, divisors that stop the others."""
    values = np.ones(size, dtype=np.float32)
    if name == "rope_freqs.weight":
        part = config["rope_parameters"]["full_attention"]["partial_rotary_factor"]
        values[int(size * part) :] = 1e30
    return values


def kind_of(name: str, config: dict[str, Any], format_name: str) -> GGMLQuantizationType:
    """The type of a matrix; of the mix as counted in published files of E2B."""
    if format_name in FORMATS:
        return FORMATS[format_name]
    types = GGMLQuantizationType
    if name == "per_layer_model_proj.weight":
        return types.Q8_0
    if not name.startswith("blk."):
        return types.Q6_K
    _, index, part, _ = name.split(".")
    if part in ("inp_gate", "proj"):
        return types.Q5_K
    count, at = config["num_hidden_layers"], int(index)
    fine = at < count // 8 or at >= 7 * count // 8 or (at - count // 8) % 3 == 2
    return types.Q6_K if fine and part in ("ffn_down", "attn_v") else types.Q4_K


def noise(quant: GGMLQuantizationType) -> np.ndarray:
    """Bytes of random blocks: float16 scales, else random."""
    weights, block = GGML_QUANT_SIZES[quant]
    data = np.random.default_rng(0).integers(0, 256, (NOISE_BLOCKS * 32 // weights, block), dtype=np.uint8)
    places, deviation = HALVES[quant.name]
    for at in places:
        data[:, at : at + 2] = np.frombuffer(np.float16(SPREAD / deviation).tobytes(), dtype=np.uint8)
    return data.reshape(-1)


def write_tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """Made-up words; the special ids are Gemma's."""
    special = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 106: "<turn|>", 107: "\n"}
    words = [special.get(i, f"w{i}") for i in range(vocab)]
    kinds = [TokenType.CONTROL if i in (0, 1, 2, 3, 106) else TokenType.NORMAL for i in range(vocab)]
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges(["w 4"])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def write_keys(writer: GGUFWriter, arch: str, config: dict[str, Any]) -> None:
    """The architecture's metadata."""
    layers, shared = config["num_hidden_layers"], config["num_kv_shared_layers"]
    width, double = config["intermediate_size"], config["use_double_wide_mlp"]
    numbers = {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": layers, "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"], "attention.shared_kv_layers": shared,
        "attention.key_length": config["global_head_dim"], "attention.value_length": config["global_head_dim"],
        "attention.key_length_swa": config["head_dim"], "attention.value_length_swa": config["head_dim"],
        "attention.sliding_window": config["sliding_window"], "rope.dimension_count": config["global_head_dim"],
        "rope.dimension_count_swa": config["head_dim"],
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"],
    }  # fmt: skip
    if "backbone_hidden_size" in config:
        numbers["embedding_length_out"] = config["backbone_hidden_size"]
        numbers["nextn_predict_layers"] = layers
    for key, value in numbers.items():
        writer.add_uint32(f"{arch}.{key}", value)
    widths = [width * 2 if double and i >= layers - shared else width for i in range(layers)]
    writer.add_array(f"{arch}.feed_forward_length", widths)
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    writer.add_array(f"{arch}.attention.sliding_window_pattern", sliding)
    ropes = config["rope_parameters"]
    writer.add_float32(f"{arch}.rope.freq_base", ropes["full_attention"]["rope_theta"])
    writer.add_float32(f"{arch}.rope.freq_base_swa", ropes["sliding_attention"]["rope_theta"])
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    if config["final_logit_softcapping"]:
        writer.add_float32(f"{arch}.final_logit_softcapping", config["final_logit_softcapping"])


def write(path: Path, arch: str, config: dict[str, Any], format_name: str) -> int:
    """Write one file.

    Returns:
        Bytes of the matrices that every pass reads: all but the per-layer table, the head once.
    """
    writer = GGUFWriter(path, arch)
    writer.add_name("random weights")
    writer.add_file_type(FILE_TYPES[format_name])
    write_keys(writer, arch, config)
    write_tokenizer(writer, config["vocab_size"])
    tensors = list(all_tensors(config))
    streamed = 0
    for name, shape in tensors:
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
            continue
        quant = kind_of(name, config, format_name)
        weights, block = GGML_QUANT_SIZES[quant]
        stored = (shape[0], shape[1] // weights * block)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], raw_dtype=quant)
        streamed += 0 if name == "per_layer_token_embd.weight" else stored[0] * stored[1]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    data = {quant: noise(quant) for quant in {kind_of(name, config, format_name) for name, _ in tensors}}
    for name, shape in tensors:
        if len(shape) == 1:
            writer.write_tensor_data(vector(name, shape[0], config))
        else:
            quant = kind_of(name, config, format_name)
            weights, block = GGML_QUANT_SIZES[quant]
            writer.write_tensor_data(np.resize(data[quant], shape[0] * (shape[1] // weights) * block))
    writer.close()
    return streamed


def main() -> int:
    """Write the files asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the target's file")
    parser.add_argument("--assistant", type=Path, help="the drafter's file")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer layers of the target, for quick trials")
    parser.add_argument("--format", choices=sorted(FILE_TYPES), default="q4_0")
    args = parser.parse_args()
    jobs = [(args.out, "gemma4", text_config(args.layers)), (args.assistant, "gemma4-assistant", drafter_config())]
    if not any(path for path, _, _ in jobs):
        parser.error("name a file with --out or --assistant")
    for path, arch, config in jobs:
        if path is not None:
            streamed = write(path, arch, config, args.format if arch == "gemma4" or args.format in FORMATS else "q8_0")
            print(f"{path}: {path.stat().st_size / 1e9:.3f} GB, {streamed / 1e9:.3f} GB read in a pass")
    return 0


if __name__ == "__main__":
    sys.exit(main())
