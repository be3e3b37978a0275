"""Checkpoints whose matrices are codes and scales, in the layouts of several methods, from one set of codes.

Layouts are written out from their definitions: compressed-tensors 0.20.1 (compressors/pack_quantized/helpers.py,
pack_to_int32), AutoGPTQ's and GPTQModel's QuantLinear.pack, AutoAWQ's WQLinear_GEMM.from_linear (a word of eight codes
holds rows 0, 2, 4, 6, 1, 3, 5, 7).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Method = Literal["geminate", "packed", "int", "gptq", "gptq_v2", "awq"]
Tensors = dict[str, torch.Tensor]
LINEAR = tuple(f"{name}_proj.weight" for name in ("q", "k", "v", "o", "gate", "up", "down"))


def grid(weight: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int64 [n, k] over the whole range and scales float32 [n, groups], which bfloat16 holds; group 0: rows."""
    n, k = weight.shape
    group = group or k
    groups = -(-k // group)
    wide = np.zeros((n, groups * group), np.float32)
    wide[:, :k] = weight
    blocks = wide.reshape(n, groups, group)
    half = 1 << (bits - 1)
    scales = torch.from_numpy(np.abs(blocks).max(-1) / (half - 0.5)).to(torch.bfloat16).float().numpy()
    codes = np.clip(np.rint(blocks / np.maximum(scales, 1e-12)[..., None]), -half, half - 1)
    codes = codes.reshape(n, -1)[:, :k].astype(np.int64)
    codes[0, 0] = -half
    return codes, scales


def words(fields: np.ndarray, bits: int) -> torch.Tensor:
    """Unsigned fields int64 [..., count] as int32 [..., words], low bits first, zeros behind the last."""
    each = 32 // bits
    *front, count = fields.shape
    wide = np.zeros((*front, -(-count // each) * each), np.int64)
    wide[..., :count] = fields
    whole = (wide.reshape(*front, -1, each) << (bits * np.arange(each))).sum(-1)
    return torch.from_numpy(whole.astype(np.uint32).view(np.int32))


def parts(method: Method, codes: np.ndarray, scales: np.ndarray, bits: int, group: int) -> Tensors:
    """A module's tensors by the last part of their names; weight [n, k]."""
    n, k = codes.shape
    half = 1 << (bits - 1)
    bf16 = torch.from_numpy(scales).to(torch.bfloat16)
    if method == "geminate":
        wide = np.repeat(scales, -(-(group or k) // 32), axis=1)[:, : -(-k // 32)]
        stored = codes.astype(np.int8)
        if bits == 4:
            stored = ((codes[:, 0::2] + 8) | ((codes[:, 1::2] + 8) << 4)).astype(np.uint8)
        return {"codes": torch.from_numpy(stored), "scales": torch.from_numpy(wide.astype(np.float16))}
    if method == "packed":
        shape = torch.tensor([n, k])
        return {"weight_packed": words(codes + half, bits), "weight_scale": bf16, "weight_shape": shape}
    if method == "int":
        return {"weight": torch.from_numpy(codes.astype(np.int8)), "weight_scale": bf16}
    zeros = np.full((scales.shape[1], n), half - (method == "gptq"))
    if method == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        rows = (codes.T + half).reshape(k, -1, 8)[..., order].reshape(k, n)
        found = {"qweight": words(rows, 4), "qzeros": words(zeros, 4)}
    else:
        found = {"qweight": words(codes + half, bits).T.contiguous(), "qzeros": words(zeros, bits),
                 "g_idx": torch.arange(k, dtype=torch.int32) // (group or k)}  # fmt: skip
    return found | {"scales": torch.from_numpy(scales.T.astype(np.float16))}


def described(method: Method, bits: int, group: int) -> dict[str, Any]:
    """quantization_config as the method's exporters write it."""
    if method == "geminate":
        return {"quant_method": "geminate", "version": 1}
    if method in ("packed", "int"):
        form = {"packed": "pack-quantized", "int": "int-quantized"}[method]
        weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group" if group else "channel",
                   "group_size": group or None, "dynamic": False, "actorder": None, "block_structure": None,
                   "observer": "minmax", "observer_kwargs": {}}  # fmt: skip
        modules = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
                "config_groups": {"group_0": modules}, "ignore": ["lm_head", "re:.*per_layer.*", "re:.*vision_tower.*"],
                "kv_cache_scheme": None, "global_compression_ratio": 1.0}  # fmt: skip
    if method == "awq":
        return {"quant_method": "awq", "bits": bits, "group_size": group or -1, "zero_point": False, "version": "gemm",
                "modules_to_not_convert": None}  # fmt: skip
    return {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "desc_act": False, "sym": True,
            "true_sequential": True, "damp_percent": 0.05, "lm_head": False, "checkpoint_format": method,
            "meta": {"quantizer": ["gptqmodel:5.0.0"]}, "pack_dtype": "int32"}  # fmt: skip


def coded(
    source: Path,
    directory: Path,
    method: Method,
    *,
    bits: int = 4,
    group: int = 32,
    tensors: Callable[[Tensors], None] = lambda found: None,
    config: Callable[[dict[str, Any]], None] = lambda found: None,
) -> Path:
    """A copy of a model whose layers' projections are stored by a method, then changed.

    Args:
        tensors, config: change what is written; ``config`` is given quantization_config.
    """
    shutil.copytree(source, directory)
    found: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith(LINEAR):
            found[name] = tensor
            continue
        codes, scales = grid(tensor.float().numpy(), bits, group)
        module = name.removesuffix(".weight")
        found |= {f"{module}.{part}": value for part, value in parts(method, codes, scales, bits, group).items()}
    tensors(found)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, directory / "model.safetensors")
    raw = json.loads((directory / "config.json").read_text())
    raw["quantization_config"] = described(method, bits, group)
    config(raw["quantization_config"])
    (directory / "config.json").write_text(json.dumps(raw))
    return directory
