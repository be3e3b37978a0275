"""Make the files beside this script: tiny mobile checkpoints, and what transformers 5.24.0 computes with them.

    python -m venv V && V/bin/pip install transformers==5.24.0 torch==2.13.0 safetensors numpy
    V/bin/python tests/conformance/mobile/make.py

The test environment has an older transformers, which does not know the method ``gemma``; so its results are kept here.
Each model is a directory in transformers' layout; ``NAME-reference.safetensors`` beside it holds prompt ids, float32
logits of the last rows, computed with keys and values rounded to float16, greedily chosen ids, and for every quantized
Linear one row of input, its integer sums and the output.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma4ForCausalLM, Gemma4TextConfig, __version__
from transformers.cache_utils import DynamicCache
from transformers.integrations.gemma_quant import (
    QuantizedEmbedding,
    QuantizedLinear,
    _unpack_int2,
    _unpack_int4,
    replace_with_quant_layers,
)
from transformers.utils.quantization_config import GemmaQuantizationConfig

HERE = Path(__file__).resolve().parent
VOCAB, PROMPT, GENERATED, LOGITS = 96, 40, 24, 12


def settings(name: str) -> dict[str, Any]:
    """E2B: odd widths, shared K/V, double-wide MLPs; E4B: even widths, two KV heads."""
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "vocab_size_per_layer_input": VOCAB, "head_dim": 8, "global_head_dim": 16,
        "sliding_window": 12, "max_position_embeddings": 256, "final_logit_softcapping": 30.0, "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 6, "num_kv_shared_layers": 3,
    }  # fmt: skip
    if name == "e2b":
        own = {"hidden_size": 37, "intermediate_size": 27, "num_attention_heads": 2, "num_key_value_heads": 1,
               "use_double_wide_mlp": True, "hidden_size_per_layer_input": 5}  # fmt: skip
    else:
        own = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2,
               "hidden_size_per_layer_input": 8}  # fmt: skip
    return {**common, **own}


def quantization(name: str) -> dict[str, Any]:
    """The published mix of bits, with the first layers of an MLP at 4 bits in E2B alone."""
    e2b = name == "e2b"
    return {
        "num_bits": 4,
        "quantize_embeddings": True,
        "module_quant_configs": {
            "^lm_head$": {"num_bits": 2},
            r"model\.embed_tokens$": {"num_bits": 2},
            r"model\.embed_tokens_per_layer$": {"num_bits": 4 if e2b else 2},
            **({r"layers\.[0-2]\.mlp\.": {"num_bits": 4}, r"layers\.\d+\.mlp\.": {"num_bits": 2}} if e2b else {}),
            r"layers\.\d+\.per_layer_input_gate$": {"num_bits": 8},
            r"layers\.\d+\.per_layer_projection$": {"num_bits": 8},
            r"layers\.\d+\.self_attn\.": {},
        },
        "modules_to_not_convert": ["per_layer_model_projection"],
    }


def packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 codes [n, k] as QuantizedLinear stores them."""
    if bits == 8:
        return codes.to(torch.int8)
    per = 8 // bits
    wide = torch.zeros(codes.shape[0], -(-codes.shape[1] // per) * per, dtype=torch.int16)
    wide[:, : codes.shape[1]] = codes + 2 ** (bits - 1)
    wide = wide.reshape(len(codes), -1, per)
    return sum(wide[..., i] << (bits * i) for i in range(per)).to(torch.uint8)


def codes_of(module: QuantizedLinear) -> torch.Tensor:
    """int8 [n, k]."""
    unpack = {2: _unpack_int2, 4: _unpack_int4}.get(module.num_bits)
    return module.weight if unpack is None else unpack(module.weight, module.in_features)


def drawn(n: int, k: int, bits: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes with a scale for each row; every code occurs."""
    w = torch.randn(n, k, generator=g)
    scale = {
        2: torch.full((n, 1), 0.95),
        4: w.abs().amax(1, keepdim=True) / 7.4,
        8: w.abs().amax(1, keepdim=True) / 127.5,
    }[bits]
    low = -(2 ** (bits - 1))
    codes = (w / scale).round().clamp(low, -low - 1)
    codes[0, 0], codes[0, -1] = low, -low - 1
    return codes.to(torch.int8), (scale * k**-0.5 * (0.8 + 0.4 * torch.rand(n, 1, generator=g))).float()


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Random weights and scales; activations are not calibrated yet."""
    g = torch.Generator().manual_seed(seed)
    quantized: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            codes, scale = drawn(module.out_features, module.in_features, module.num_bits, g)
            module.weight.data = packed(codes, module.num_bits)
            module.weight_scale.data = scale
            quantized.add(name)
        elif isinstance(module, QuantizedEmbedding):
            n, k = module.num_embeddings, module.embedding_dim
            codes, _ = drawn(n, k, module.num_bits, g)
            blocks = model.config.num_hidden_layers if name.endswith("per_layer") else 1
            module.embedding_quantized.data = packed(codes, module.num_bits)
            step = (
                0.08 if module.num_bits == 2 else 0.04
            )  # small, so that the last token's echo does not drown the rest
            module.embedding_scale = torch.nn.Parameter(step * (0.5 + torch.rand(n, blocks, generator=g)))
            quantized.add(name)
    if model.config.use_double_wide_mlp:  # as published; the other model has a head of its own
        model.lm_head.weight.data = model.model.embed_tokens.embedding_quantized.data.clone()
        model.lm_head.weight_scale.data = model.model.embed_tokens.embedding_scale.data.clone()
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if (
            name.rpartition(".")[0] in quantized
            or not p.is_floating_point()
            or "inv_freq" in name
            or "embed_scale" in name
        ):
            continue
        if name.endswith("layer_scalar"):
            value = 0.7 + 0.3 * torch.rand(p.shape, generator=g)
        elif p.dim() == 1:
            value = 1 + 0.2 * torch.randn(p.shape, generator=g)
            value = value * (p.shape[0] ** -0.5 if "q_norm" in name else 0.4 if ".post_" in name else 1)
        else:
            value = torch.randn(p.shape, generator=g) * p.shape[-1] ** -0.5
        p.data.copy_(value.to(torch.bfloat16).float())


def calibrate(model: torch.nn.Module, ids: torch.Tensor) -> None:
    """Activation scales from one text, slightly too small, so that some are clipped; three layers are left out."""
    largest: dict[str, list[float]] = {}
    handles = [
        module.register_forward_hook(
            lambda m, x, y, name=name: largest.update({name: [float(x[0].abs().max()), float(y.abs().max())]})
        )
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    for name, (into, out) in largest.items():
        module = model.get_submodule(name)
        module.input_activation_scale.data.fill_(into / 120)
        module.output_activation_scale.data.fill_(out / 120)
    for name, input_too in (
        ("lm_head", True),
        ("model.layers.1.mlp.up_proj", True),
        ("model.layers.4.self_attn.o_proj", False),
    ):
        module = model.get_submodule(name)
        module.output_activation_scale.data.zero_()
        if input_too:
            module.input_activation_scale.data.zero_()


class HalfCache(DynamicCache):
    """Keys and values rounded to float16."""

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
        """See DynamicCache."""
        return super().update(key.half().to(key.dtype), value.half().to(value.dtype), layer, *args, **kwargs)


def save(model: torch.nn.Module, name: str, directory: Path) -> None:
    """A checkpoint as published, but of the text model alone: config.json and model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "gemma4_text",
        "dtype": "float32",
        **settings(name),
        "quantization_config": {"quant_method": "gemma", **quantization(name)},
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors: dict[str, torch.Tensor] = {}
    for key, value in model.state_dict().items():
        plain = value.is_floating_point() and not key.endswith(("scale",))
        tensors[key] = (value.to(torch.bfloat16) if plain else value).contiguous()
    save_file(tensors, directory / "model.safetensors")


def loaded(directory: Path) -> torch.nn.Module:
    """The model as transformers reads it; it allocates one scale a row, so scales by block are put there afterwards."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", ignore_mismatched_sizes=True
    ).eval()
    scales = load_file(directory / "model.safetensors")["model.embed_tokens_per_layer.embedding_scale"]
    model.model.embed_tokens_per_layer.embedding_scale = torch.nn.Parameter(scales)
    return model


def products(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """For every quantized Linear, of the last row: input, integer sums (where calibrated), output."""
    found: dict[str, torch.Tensor] = {}

    def note(module: QuantizedLinear, x: tuple[torch.Tensor], y: torch.Tensor, name: str) -> None:
        rows, out = x[0][0, -1:], y[0, -1:]
        scale = module.input_activation_scale
        if scale != 0:
            q = torch.clamp(torch.round(rows / scale), -128, 127).to(torch.int64)
            found[f"{name}.sums"] = (q @ codes_of(module).to(torch.int64).T).to(torch.int32)
        found[f"{name}.input"], found[f"{name}.output"] = rows.clone(), out.clone()

    handles = [
        module.register_forward_hook(lambda m, x, y, name=name: note(m, x, y, name))
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    ]
    with torch.no_grad():
        model(ids, cache=HalfCache(config=model.config), use_cache=True)
    for handle in handles:
        handle.remove()
    return found


def greedy(model: torch.nn.Module, ids: list[int]) -> list[int]:
    """Most likely ids, each computed anew from the whole text."""
    out = list(ids)
    for _ in range(GENERATED):
        with torch.no_grad():
            logits = model(torch.tensor([out]), cache=HalfCache(config=model.config), use_cache=True).logits
        out.append(int(logits[0, -1].argmax()))
    return out[len(ids) :]


def on_no_border(model: torch.nn.Module, ids: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether float64 rounds all activations alike: where not, float32 sums in another order need not agree either."""
    wide = copy.deepcopy(model).double()
    for module in wide.modules():
        if isinstance(module, QuantizedEmbedding):
            module.output_dtype = torch.float64
    with torch.no_grad():
        found = wide(ids, cache=HalfCache(config=wide.config), use_cache=True).logits[0]
    return bool((found - logits).abs().max() < 1e-4 * logits.abs().max())


def make(name: str, seed: int) -> bool:
    """One model with its reference; False if it has activations on a border between two codes."""
    model = Gemma4ForCausalLM(Gemma4TextConfig(**settings(name), attn_implementation="eager")).eval()
    given = GemmaQuantizationConfig(**quantization(name))
    replace_with_quant_layers(model, given, given.modules_to_not_convert)
    randomise(model, seed)
    g = torch.Generator().manual_seed(seed + 100)
    ids = torch.randint(3, VOCAB, (1, PROMPT), generator=g)
    calibrate(model, ids)
    directory = HERE / name
    save(model, name, directory)
    read = loaded(directory)
    with torch.no_grad():
        logits = read(ids, cache=HalfCache(config=read.config), use_cache=True).logits[0]
        assert torch.equal(logits, model(ids, cache=HalfCache(config=model.config), use_cache=True).logits[0])
    if not on_no_border(read, ids, logits):
        return False
    reference = {
        "ids": ids[0].to(torch.int32),
        "logits": logits[-LOGITS:].contiguous(),
        "greedy": torch.tensor(greedy(read, ids[0].tolist()), dtype=torch.int32),
        **{key: value.contiguous() for key, value in products(read, ids).items()},
    }
    save_file(reference, HERE / f"{name}-reference.safetensors", metadata={"transformers": __version__})
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    for model, seed in (("e2b", 10), ("e4b", 10)):
        assert make(model, seed), "choose another seed"
