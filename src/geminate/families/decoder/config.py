"""A decoder's configuration from config.json's terms, for every family; what differs between families is in `Traits`.

Both layouts load alike: the published one (``global_head_dim``, ``num_global_key_value_heads``) and the one
transformers 5.17.0 saves (``per_layer_config`` with zero-padded keys); nested under ``text_config`` or flat.
A field that would change the arithmetic into something we do not compute is refused, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geminate.checkpoint.quantization_config import EMBEDDING, METHODS, quantization_scheme
from geminate.errors import ConfigError, shown
from geminate.families.decoder.fields import DECODER, MAX_VOCAB, ROPE, Fields
from geminate.plan.config import (
    CheckpointDtype,
    GenerationDefaults,
    LayerConfig,
    LayerKind,
    MoeConfig,
    RopeConfig,
    TargetConfig,
)

MAX_EOS = 1000


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a family's decoder layers do whatever its config.json says.

    Attributes:
        last_full: the last layer attends in full, as transformers forces it.
        query_scalar: scores are scaled by ``query_pre_attn_scalar`` ** -0.5; else the field is refused.
        v_norm: values are normed. layer_scalar: a layer's output is multiplied by a stored number.
        norm_unit_offset: norms multiply by 1 + w.
        per_layer_inputs: whether ``hidden_size_per_layer_input`` means anything.
    """

    last_full: bool = True
    query_scalar: bool = False
    v_norm: bool = True
    layer_scalar: bool = True
    norm_unit_offset: bool = False
    per_layer_inputs: bool = True


def text_section(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``text_config``, or the whole where it is flat."""
    text = raw.get("text_config", raw)
    if not isinstance(text, Mapping):
        raise ConfigError("text_config in config.json is not an object")
    return text


def decoder_config(
    raw: Mapping[str, Any],
    generation: Mapping[str, Any],
    traits: Traits,
    *,
    embed_scale_dtype: CheckpointDtype | None = None,
    drafter: bool = False,
) -> TargetConfig:
    """A decoder.

    Args:
        embed_scale_dtype: round embedding scales to this dtype instead of the checkpoint's.
        drafter: it is a drafter's: no soft cap, and all layers may share another model's keys and values.

    Raises:
        ConfigError: with the cause.
    """
    text = text_section(raw)
    for section in (raw, text):  # quantization_config stands beside text_config in nested files
        _refuse_unknown_arithmetic(section, traits)
    fields = Fields(text, DECODER)
    dtype = _dtype(raw, text)
    scheme = quantization_scheme(raw)
    if scheme is not None and drafter:
        raise ConfigError(f"a drafter with quantization_config ({scheme.method}) is not supported; take the bf16 one")
    # Quantized tables are multiplied in float32 by the unrounded factor (QuantizedEmbedding.forward).
    table = None if scheme is None else scheme.bits(EMBEDDING, "Embedding")
    scale_dtype = embed_scale_dtype or (dtype if table is None else "float32")
    hidden, vocab = fields.integer("hidden_size"), fields.integer("vocab_size")
    ple_dim = fields.integer("hidden_size_per_layer_input") if traits.per_layer_inputs else 0
    capped = text.get("final_logit_softcapping") is not None and not drafter
    tied = raw.get("tie_word_embeddings", text.get("tie_word_embeddings", True)) is not False
    if scheme is None and not tied:
        raise ConfigError("tie_word_embeddings false is not supported: the head must be the token embedding")
    return TargetConfig(
        model_type=str(raw.get("model_type")),
        vocab_size=vocab,
        hidden_size=hidden,
        layers=_layers(text, fields, traits, drafter=drafter),
        rms_norm_eps=fields.number("rms_norm_eps"),
        softcap=fields.number("final_logit_softcapping") if capped else None,
        embed_scale=_rounded_sqrt(hidden, scale_dtype),
        ple_dim=ple_dim,
        ple_vocab=fields.integer("vocab_size_per_layer_input", vocab) if ple_dim else 0,
        ple_scale=_rounded_sqrt(ple_dim, scale_dtype) if ple_dim else 0.0,
        rope=_ropes(text),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        moe=_moe(text, fields),
        eos_token_ids=_eos_ids(text, generation),
        dtype=dtype,
        norm_unit_offset=traits.norm_unit_offset,
        tied_head=tied,
        generation=GenerationDefaults(
            do_sample=generation.get("do_sample"),
            temperature=generation.get("temperature"),
            top_k=generation.get("top_k"),
            top_p=generation.get("top_p"),
        ),
    )


def _moe(text: Mapping[str, Any], fields: Fields) -> MoeConfig | None:
    if not text.get("enable_moe_block"):
        return None
    moe = MoeConfig(
        num_experts=fields.integer("num_experts"),
        top_k=fields.integer("top_k_experts"),
        intermediate=fields.integer("moe_intermediate_size"),
    )
    if moe.top_k > moe.num_experts:
        raise ConfigError(f"top_k_experts {moe.top_k} of {moe.num_experts} experts")
    return moe


def _refuse_unknown_arithmetic(text: Mapping[str, Any], traits: Traits) -> None:
    if text.get("attention_bias"):
        raise ConfigError("attention_bias true is not supported")
    activation = text.get("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise ConfigError(f"hidden_activation {shown(activation)} is not supported (gelu_pytorch_tanh is)")
    direction = text.get("use_bidirectional_attention")
    if direction not in (None, "vision"):
        raise ConfigError(f"use_bidirectional_attention {shown(direction)} is not supported: text is decoded causally")
    for name in ("attn_logit_softcapping", "query_pre_attn_scalar", "rope_scaling", "quantization_config"):
        value = text.get(name)
        # Written by `geminate quantize`, whose tensors hold the details, or read by `quantization_scheme`.
        if name == "quantization_config" and isinstance(value, Mapping):
            if value.get("quant_method") in ("geminate", *METHODS):
                continue
        if name == "quantization_config" and value is not None:
            method = value.get("quant_method") if isinstance(value, Mapping) else None
            raise ConfigError(
                f"config.json has a quantization_config ({shown(method) if method else 'of no named method'}): weights "
                "quantized that way are not read; take the bf16 checkpoint (--weights int8 or int4 quantizes it here) "
                "or a GGUF file"
            )
        if value is not None and not (traits.query_scalar and name == "query_pre_attn_scalar"):
            raise ConfigError(f"config.json sets {name}, which would change the arithmetic: not supported")


def _ropes(text: Mapping[str, Any]) -> dict[str, RopeConfig]:
    defaults: dict[str, dict[str, Any]] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    }
    given = text.get("rope_parameters") or defaults
    if not isinstance(given, Mapping):
        raise ConfigError("rope_parameters in config.json is not an object")
    ropes: dict[str, RopeConfig] = {}
    for kind in defaults:
        entry = given.get(kind)
        if not isinstance(entry, Mapping):
            raise ConfigError(f"rope_parameters has no entry for {kind}")
        rope_type = entry.get("rope_type", "default")
        if rope_type not in ("default", "linear", "proportional"):
            raise ConfigError(f"rope_type {shown(rope_type)} of {kind} is not supported")
        fields = Fields(entry, ROPE)
        part = fields.number("partial_rotary_factor")
        if part > 1 or (rope_type == "linear" and part < 1):
            raise ConfigError(f"partial_rotary_factor {part} of {kind}, which is {rope_type}, is not supported")
        factor = fields.number("factor")
        if rope_type == "default" and factor != 1:
            raise ConfigError(
                f"{kind} has factor {factor}, but rope_type default, which scales nothing; did you mean linear?"
            )
        ropes[kind] = RopeConfig(
            rope_type=rope_type,
            theta=fields.number("rope_theta", defaults[kind]["rope_theta"]),
            partial_rotary_factor=part,
            factor=factor,
        )
    return ropes


def _layer_kinds(text: Mapping[str, Any], count: int, *, last_full: bool) -> list[LayerKind]:
    kinds = text.get("layer_types")  # the count is checked, so the default list is short
    if kinds is None:
        kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(count)]
    if not isinstance(kinds, list):
        raise ConfigError("layer_types in config.json is not a list")
    kinds = list(kinds)
    if len(kinds) != count:
        raise ConfigError(f"layer_types has {len(kinds)} entries for {count} layers")
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise ConfigError(f"layer type {shown(kind)} is not supported")
    if last_full:
        kinds[-1] = "full_attention"  # as transformers forces it
    return kinds


PER_LAYER = ("head_dim", "num_key_value_heads")


def _overrides(text: Mapping[str, Any], count: int) -> dict[int, Mapping[str, Any]] | None:
    """``per_layer_config`` by layer index, or None for the published layout, which has none.

    An empty object is not an absent one: transformers saves {} where every layer is as the global fields say.
    """
    if "per_layer_config" not in text:
        return None
    given = text["per_layer_config"] or {}
    if not isinstance(given, Mapping):
        raise ConfigError("per_layer_config in config.json is not an object")
    found: dict[int, Mapping[str, Any]] = {}
    for key, entry in given.items():
        digits = str(key)
        if len(digits) > 6 or not digits.isdecimal() or int(digits) >= count or not isinstance(entry, Mapping):
            raise ConfigError(f"per_layer_config entry {shown(key)} is not an object for one of {count} layers")
        for name in entry:
            if name not in PER_LAYER and entry[name] != text.get(name):
                raise ConfigError(f"per_layer_config sets {name[:100]} of layer {key}: not supported")
        found[int(digits)] = entry
    return found


def _layers(text: Mapping[str, Any], fields: Fields, traits: Traits, *, drafter: bool) -> tuple[LayerConfig, ...]:
    count = fields.integer("num_hidden_layers")
    kinds = _layer_kinds(text, count, last_full=traits.last_full)
    shared = fields.integer("num_kv_shared_layers")
    if shared > count or (shared == count and not drafter):
        raise ConfigError(f"num_kv_shared_layers {shared} leaves no layer of {count} to compute K and V")
    first_shared = count - shared
    overrides = _overrides(text, count)
    width, heads = fields.integer("intermediate_size"), fields.integer("num_attention_heads")
    k_eq_v = bool(text.get("attention_k_eq_v", False))
    layers: list[LayerConfig] = []
    dims: dict[LayerKind, int] = {}
    for i, kind in enumerate(kinds):
        full = kind == "full_attention"
        dim, kv = _head_shape(text, fields, None if overrides is None else overrides.get(i, {}), full=full)
        if heads % kv or dim % 2:
            raise ConfigError(f"layer {i}: {heads} heads over {kv} KV heads, head_dim {dim}: must divide")
        if dims.setdefault(kind, dim) != dim:
            raise ConfigError(f"layer {i}: head_dim {dim}, but {dims[kind]} in the {kind} layers before it")
        is_shared = i >= first_shared
        donor = _donor(i, kind, kv, kinds[:first_shared], layers) if is_shared and not drafter else i
        double = bool(text.get("use_double_wide_mlp")) and is_shared and first_shared > 0
        layers.append(
            LayerConfig(
                index=i,
                kind=kind,
                heads=heads,
                kv_heads=kv,
                head_dim=dim,
                window=0 if full else fields.integer("sliding_window"),
                k_eq_v=k_eq_v and full,
                kv_shared=is_shared,
                kv_donor=donor,
                intermediate=width * 2 if double else width,
                query_scale=1.0 / math.sqrt(fields.number("query_pre_attn_scalar")) if traits.query_scalar else 1.0,
                v_norm=traits.v_norm,
                layer_scalar=traits.layer_scalar,
            )
        )
    return tuple(layers)


def _head_shape(
    text: Mapping[str, Any], fields: Fields, override: Mapping[str, Any] | None, *, full: bool
) -> tuple[int, int]:
    """head_dim and KV heads of a layer; ``override`` is its entry of ``per_layer_config``, None in the other layout."""
    dim, kv = fields.integer("head_dim"), fields.integer("num_key_value_heads")
    if override is not None:
        own = Fields(override, DECODER)
        return own.integer("head_dim", dim), own.integer("num_key_value_heads", kv)
    if full:
        dim = fields.integer("global_head_dim")
        if text.get("attention_k_eq_v") and text.get("num_global_key_value_heads") is not None:
            kv = fields.integer("num_global_key_value_heads")
    return dim, kv


def _donor(i: int, kind: LayerKind, kv_heads: int, own: list[LayerKind], layers: list[LayerConfig]) -> int:
    """The last layer of a kind that computes K and V, for one that shares them; ``own``: kinds of those before."""
    donors = [j for j, other in enumerate(own) if other == kind]
    if not donors:
        raise ConfigError(f"layer {i} shares {kind} K/V, but no layer before {len(own)} computes any")
    if layers[donors[-1]].kv_heads != kv_heads:
        raise ConfigError(f"layer {i}: {kv_heads} KV heads, but layer {donors[-1]}, whose K/V it reads, has others")
    return donors[-1]


def _rounded_sqrt(value: int, dtype: CheckpointDtype) -> float:
    root = np.float32(math.sqrt(value))
    if dtype == "float16":
        return float(np.float16(root))
    if dtype == "bfloat16":
        bits = int(root.view(np.uint32))
        bits += 0x7FFF + ((bits >> 16) & 1)
        return float(np.uint32(bits & 0xFFFF0000).view(np.float32))
    return float(root)


def _dtype(raw: Mapping[str, Any], text: Mapping[str, Any]) -> CheckpointDtype:
    for source in (raw, text):
        for name in ("dtype", "torch_dtype"):
            value = str(source.get(name) or "").removeprefix("torch.")
            if value in ("bfloat16", "float16", "float32"):
                return value  # type: ignore[return-value]
            if value:
                raise ConfigError(f"dtype {shown(value)} is not supported (bfloat16, float16, float32 are)")
    return "float32"


def _eos_ids(text: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    value = generation.get("eos_token_id", text.get("eos_token_id", 1))
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if len(ids) > MAX_EOS or not all(isinstance(i, int) and abs(i) < MAX_VOCAB for i in ids):
        raise ConfigError(f"eos_token_id must be an integer or a list of integers, not {shown(value)}")
    return tuple(ids)
