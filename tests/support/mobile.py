"""Checkpoints with static activations: the committed ones, and changes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from geminate.families.registry import load_target_config
from geminate.weights.specs import expected_tensors

FIXTURES = Path(__file__).resolve().parents[1] / "conformance" / "mobile"
MODELS = ("e2b", "e4b")
Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]
VOCAB = 96


def changed(
    name: str,
    directory: Path,
    *,
    tensors: Callable[[Tensors], None] = lambda found: None,
    config: Callable[[Config], None] = lambda found: None,
) -> Path:
    """A copy of a committed checkpoint, changed."""
    directory.mkdir(parents=True)
    raw = json.loads((FIXTURES / name / "config.json").read_text())
    config(raw)
    (directory / "config.json").write_text(json.dumps(raw))
    found = load_file(FIXTURES / name / "model.safetensors")
    tensors(found)
    save_file(found, directory / "model.safetensors")
    return directory


def copied(name: str, directory: Path) -> Path:
    """A copy of a committed checkpoint."""
    directory.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(FIXTURES / name / file, directory / file)
    return directory


def published(name: str, directory: Path) -> Path:
    """The same weights as Google publishes them: nested, with towers, unused k/v and scales of an int8 KV cache."""

    def rename(found: Tensors) -> None:
        for key in list(found):
            if key.startswith("model."):
                found["model.language_model." + key.removeprefix("model.")] = found.pop(key)
        layers = 6
        for i in range(layers):
            here = f"model.language_model.layers.{i}.self_attn"
            found[f"{here}.k_cache_scale"] = torch.tensor(0.02)
            found[f"{here}.v_cache_scale"] = torch.tensor(0.03)
            if i >= layers // 2:
                for part in ("k_proj", "v_proj"):
                    found[f"{here}.{part}.weight"] = torch.zeros(8, 3, dtype=torch.uint8)
                    found[f"{here}.{part}.weight_scale"] = torch.ones(8, 1)
        found["model.vision_tower.layers.0.mlp.up_proj.linear.weight"] = torch.zeros(4, 4, dtype=torch.int8)
        found["model.vision_tower.layers.0.mlp.up_proj.linear.weight_scale"] = torch.ones(4, 1)

    def nest(raw: Config) -> None:
        text = {key: raw.pop(key) for key in list(raw) if key != "quantization_config"}
        raw |= {"model_type": "gemma4", "text_config": text, "vision_config": {"model_type": "gemma4_vision"}}
        raw["tie_word_embeddings"] = False

    return changed(name, directory, tensors=rename, config=nest)


def compressed(name: str, directory: Path) -> Path:
    """The same weights as compressed-tensors: int32 words, one group for each number of bits."""
    groups: dict[int, list[str]] = {2: [], 4: [], 8: []}
    shapes = widths(name)

    def pack(found: Tensors) -> None:
        for key in [key for key in found if key.endswith((".weight_scale", ".embedding_scale"))]:
            module = key.rpartition(".")[0]
            scale = found.pop(key)
            codes = found.pop(f"{module}.weight" if key.endswith("weight_scale") else f"{module}.embedding_quantized")
            (n, stored), k = codes.shape, shapes[module]
            bits = 8 if codes.dtype == torch.int8 else next(b for b in (2, 4) if stored == -(-k * b // 8))
            groups[bits].append("re:.*lm_head$" if module == "lm_head" else module)
            found[f"{module}.weight_scale"] = scale
            if bits == 8:
                found[f"{module}.weight"] = codes
            else:
                wide = np.zeros((n, -(-stored // 4) * 4), np.uint8)
                wide[:, :stored] = codes.numpy()
                found[f"{module}.weight_packed"] = torch.from_numpy(wide.view(np.int32))
                found[f"{module}.weight_shape"] = torch.tensor([n, k])
            for side in ("input", "output"):
                value = found.pop(f"{module}.{side}_activation_scale", None)
                if value is not None and value != 0:
                    found[f"{module}.{side}_scale"] = value.reshape(1)

    def describe(raw: Config) -> None:
        static = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
        raw["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "ignore": ["re:.*per_layer_model_projection"],
            "config_groups": {
                f"group_{i}": {
                    "targets": groups[bits],
                    "weights": {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel",
                                "dynamic": False, "group_size": None},
                    "input_activations": static,
                    "output_activations": static,
                    "format": "int-quantized" if bits == 8 else "pack-quantized",
                }
                for i, bits in enumerate((2, 4, 8))
            },
        }  # fmt: skip

    made = changed(name, directory, tensors=pack)
    raw = json.loads((made / "config.json").read_text())
    describe(raw)  # now that the groups are known
    (made / "config.json").write_text(json.dumps(raw))
    return made


def widths(name: str) -> dict[str, int]:
    """Columns of every quantized module."""
    specs = {spec.name: spec.shape[-1] for spec in expected_tensors(load_target_config(FIXTURES / name))}
    return {key if key == "lm_head" else f"model.{key}": width for key, width in specs.items()}


def reference(name: str) -> Tensors:
    """What transformers 5.24.0 computed; see `conformance/mobile/make.py`."""
    return load_file(FIXTURES / f"{name}-reference.safetensors")
