"""LoRA adapters in PEFT's layout, written without PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MODULES = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
Tensors = dict[str, torch.Tensor]


def make_adapter(
    base: Path,
    directory: Path,
    *,
    rank: int = 4,
    alpha: float = 8,
    modules: tuple[str, ...] = MODULES,
    exact: bool = False,
    seed: int = 5,
    more: Tensors | None = None,
    **fields: Any,
) -> Path:
    """An adapter with random parts for every module whose name ends with one of ``modules``.

    Args:
        exact: parts are small multiples of powers of two, so that sums of products are exact in any order.
        more: further tensors, named without PEFT's prefix. fields: further fields of adapter_config.json.
    """
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if not module.endswith(modules) or weight.dim() != 2:
            continue
        for part, shape in (("lora_A", (rank, weight.shape[1])), ("lora_B", (weight.shape[0], rank))):
            value = torch.randn(shape, generator=generator) * 0.1
            if exact:
                value = torch.randint(-2, 3, shape, generator=generator) / 16
            found[f"{module}.{part}.weight"] = value.float()
        if fields.get("use_dora"):
            found[f"{module}.lora_magnitude_vector"] = weight.float().norm(dim=1) * 1.1
    found |= more or {}
    save_file({f"base_model.model.{name}": value for name, value in found.items()},
              directory / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.1, "bias": "none",
              "target_modules": list(modules), "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base),
              "inference_mode": True, "init_lora_weights": True, "peft_version": "0.21.2", **fields}  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def merged(base: Tensors, adapter: Path, scale: float) -> Tensors:
    """The base's tensors with the adapter's low-rank parts added, in float64 and then float32."""
    parts = load_file(adapter / "adapter_model.safetensors")
    found = dict(base)
    for name in [name for name in parts if name.endswith(".lora_A.weight")]:
        module = name.removesuffix(".lora_A.weight")
        weight = f"{module.removeprefix('base_model.model.')}.weight"
        delta = parts[f"{module}.lora_B.weight"].double() @ parts[name].double() * scale
        total = base[weight].double() + delta
        magnitude = parts.get(f"{module}.lora_magnitude_vector")
        if magnitude is not None:
            total = (magnitude.double() / total.norm(dim=1))[:, None] * total
        found[weight] = total.float()
    return found
