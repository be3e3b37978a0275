"""Which tensors a configuration needs, under canonical names, and how checkpoint names map to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geminate.checkpoint.entries import Entry
from geminate.checkpoint.gguf_file import TYPES
from geminate.checkpoint.row_scaled import RowScaledEntry
from geminate.errors import WeightsError
from geminate.plan.config import AssistantConfig, LayerConfig, TargetConfig

Role = Literal["matrix", "embedding", "row_table", "vector", "scalar", "experts", "order", "keep"]
ORDERING = "masked_embedding.token_ordering"
PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
OTHER_TOWERS = (
    "vision", "audio", "embed_vision", "embed_audio", "multi_modal", "multimodal", "mm_",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor the model needs. ``keep`` is a matrix that stays bf16 whatever the format asked for.

    ``unit_offset``: the model computes with 1 + w, and files hold w unless their entry says otherwise.
    ``clusters``: rows are packed in the order of `ORDERING`, as a stack of so many matrices.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    unit_offset: bool = False
    clusters: int = 1

    @property
    def stack(self) -> int:
        """Matrices that are packed one behind the other."""
        return self.shape[0] if self.role == "experts" else self.clusters

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of one of them."""
        n, k = self.shape[-2:]
        return n // self.clusters, k


def _norm(name: str, width: int, config: TargetConfig) -> TensorSpec:
    return TensorSpec(name=name, shape=(width,), role="vector", unit_offset=config.norm_unit_offset)


def _layer_tensors(layer: LayerConfig, config: TargetConfig) -> list[TensorSpec]:
    prefix, hidden = f"layers.{layer.index}", config.hidden_size
    specs: list[TensorSpec] = []

    def add(name: str, *shape: int, role: Role = "matrix") -> None:
        specs.append(TensorSpec(name=f"{prefix}.{name}", shape=shape, role=role))

    def add_norm(name: str, width: int) -> None:
        specs.append(_norm(f"{prefix}.{name}", width, config))

    q, kv = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        add_norm(f"{norm}_layernorm", hidden)
    add("self_attn.q_proj", q, hidden)
    add_norm("self_attn.q_norm", layer.head_dim)
    add("self_attn.o_proj", hidden, q)
    if not layer.kv_shared:
        add("self_attn.k_proj", kv, hidden)
        add_norm("self_attn.k_norm", layer.head_dim)
        if not layer.k_eq_v:
            add("self_attn.v_proj", kv, hidden)
    add("mlp.gate_proj", layer.intermediate, hidden)
    add("mlp.up_proj", layer.intermediate, hidden)
    add("mlp.down_proj", hidden, layer.intermediate)
    if layer.layer_scalar:
        add("layer_scalar", 1, role="scalar")
    if config.ple_dim:
        add("per_layer_input_gate", config.ple_dim, hidden)
        add("per_layer_projection", hidden, config.ple_dim)
        add_norm("post_per_layer_input_norm", hidden)
    if config.moe is not None:
        moe = config.moe
        add("router.proj", moe.num_experts, hidden, role="keep")
        add("router.scale", hidden, role="vector")
        add("router.per_expert_scale", moe.num_experts, role="vector")
        add("experts.gate_up_proj", moe.num_experts, 2 * moe.intermediate, hidden, role="experts")
        add("experts.down_proj", moe.num_experts, hidden, moe.intermediate, role="experts")
        for norm in ("pre_feedforward_layernorm_2", "post_feedforward_layernorm_1"):
            add_norm(norm, hidden)
        add_norm("post_feedforward_layernorm_2", hidden)
    return specs


def expected_tensors(config: TargetConfig | AssistantConfig) -> list[TensorSpec]:
    """Every tensor the model computes with, in file order of use."""
    text = config.text if isinstance(config, AssistantConfig) else config
    hidden, count = text.hidden_size, len(text.layers)
    vocabulary = (text.vocab_size, hidden)
    clusters = config.num_centroids if isinstance(config, AssistantConfig) and config.use_ordered_embeddings else 1
    specs = [
        TensorSpec(
            name="embed_tokens",
            shape=vocabulary,
            role="embedding" if text.tied_head else "row_table",
            clusters=clusters if text.tied_head else 1,
        )
    ]
    if not text.tied_head:
        specs.append(TensorSpec(name="lm_head", shape=vocabulary, role="embedding"))
    if text.ple_dim:
        width = count * text.ple_dim
        specs += [
            TensorSpec(name="embed_tokens_per_layer", shape=(text.ple_vocab, width), role="row_table"),
            TensorSpec(name="per_layer_model_projection", shape=(width, hidden), role="matrix"),
            _norm("per_layer_projection_norm", text.ple_dim, text),
        ]
    for layer in text.layers:
        specs += _layer_tensors(layer, text)
    specs.append(_norm("norm", hidden, text))
    if isinstance(config, AssistantConfig):
        backbone = config.backbone_hidden_size
        specs += [
            TensorSpec(name="pre_projection", shape=(hidden, 2 * backbone), role="matrix"),
            TensorSpec(name="post_projection", shape=(backbone, hidden), role="matrix"),
        ]
        if config.use_ordered_embeddings:
            specs += [
                TensorSpec(name="masked_embedding.centroids", shape=(config.num_centroids, hidden), role="keep"),
                TensorSpec(name=ORDERING, shape=(text.vocab_size,), role="order"),
            ]
    return specs


def canonical(name: str) -> str:
    """A checkpoint's tensor name without its prefix and ``.weight``."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            name = name[len(prefix) :]
            break
    return name.removesuffix(".weight")


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The checkpoint's tensors sorted out: what is needed by canonical name, and what was passed over why."""

    tensors: dict[str, Entry]
    skipped: dict[str, tuple[int, int]]  # reason -> (tensors, bytes)


def match(entries: Mapping[str, Entry], config: TargetConfig | AssistantConfig, where: str) -> Matched:
    """Find every expected tensor and account for every other one.

    Raises:
        WeightsError: tensors missing, unexpected, of another shape or type; they are named. An ``lm_head`` that is
            not the embedding (transformers would not tie the two, so the logits would be others).
    """
    text = config.text if isinstance(config, AssistantConfig) else config
    shared = _sharing(config)
    specs = {spec.name: spec for spec in expected_tensors(config)}
    found: dict[str, Entry] = {}
    unexpected: list[str] = []
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, entry in entries.items():
        short = canonical(name)
        if short in specs:
            if short in found:
                raise WeightsError(f"{where}: {name} and {found[short].name} name the same tensor")
            found[short] = entry.of_width(specs[short].shape[-1]) if isinstance(entry, RowScaledEntry) else entry
            continue
        reason = _skip_reason(short, shared, config)
        if reason is None:
            unexpected.append(name)
        else:
            counts[reason] += 1
            sizes[reason] += entry.nbytes
    missing = [name for name in specs if name not in found]
    misshapen = [
        f"{entry.name} is {list(entry.shape)}, expected {list(specs[short].shape)}"
        for short, entry in found.items()
        if not _shape_fits(entry.shape, specs[short])
    ]
    mistyped = [
        f"{entry.name} is {entry.dtype}" for short, entry in found.items() if entry.dtype not in _dtypes(specs[short])
    ]
    problems = []
    for problem, names in (
        ("misses tensors", missing),
        ("has tensors this configuration does not know", unexpected),
        ("has tensors of another shape", misshapen),
        ("has tensors of an unsupported type", mistyped),
    ):
        if names:
            listed = ", ".join(name[:150] for name in names[:5]) + (
                f" and {len(names) - 5} more" if len(names) > 5 else ""
            )
            problems.append(f"{problem}: {listed}")
    if problems:
        raise WeightsError(f"{where} {'; it '.join(problems)}")
    for name, entry in entries.items():
        if text.tied_head and canonical(name) == "lm_head" and not _same_weights(entry, found["embed_tokens"]):
            raise WeightsError(
                f"{where}: {name} differs from the token embedding; the two must be tied, and this file "
                "needs an untied head, which is not supported"
            )
    return Matched(tensors=found, skipped={r: (counts[r], sizes[r]) for r in counts})


FLOATS = ("BF16", "F16", "F32")
BLOCKS = tuple(name for name, weights, _ in TYPES.values() if weights > 1)  # ggml's block quantizations

CODED = ("INT8", "INT4")  # `coded_tensors`
ROW_SCALED = ("Q2R", "Q4R", "Q8R")  # `row_scaled`


def _dtypes(spec: TensorSpec) -> tuple[str, ...]:
    if spec.role == "order":
        return ("I64", "I32")
    if spec.role in ("vector", "scalar", "keep", "experts"):
        return FLOATS if spec.role in ("vector", "scalar") else FLOATS + BLOCKS + CODED
    return FLOATS + BLOCKS + CODED + ROW_SCALED


def _same_weights(a: Entry, b: Entry) -> bool:
    if a.shape != b.shape or a.dtype not in FLOATS + BLOCKS or b.dtype not in FLOATS + BLOCKS:
        return False
    step = max(1, (16 << 20) // (4 * max(1, a.shape[1])))
    return all(np.array_equal(a.rows(i, i + step), b.rows(i, i + step)) for i in range(0, a.shape[0], step))


def _shape_fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return shape == spec.shape or (spec.role == "scalar" and shape == ())


def unused_by(config: TargetConfig | AssistantConfig) -> Callable[[str], bool]:
    """Says of a canonical name whether it is of a tensor that files have and the model does not compute with."""
    needed, shared = {spec.name for spec in expected_tensors(config)}, _sharing(config)
    return lambda name: name not in needed and _skip_reason(name, shared, config) is not None


def _sharing(config: TargetConfig | AssistantConfig) -> set[int]:
    text = config.text if isinstance(config, AssistantConfig) else config
    return {layer.index for layer in text.layers if layer.kv_shared}


def _skip_reason(short: str, shared: set[int], config: TargetConfig | AssistantConfig) -> str | None:
    if short.startswith(OTHER_TOWERS):
        return "vision and audio towers"
    if short == "lm_head":
        return "lm_head (tied to the embedding)"
    if short.startswith("masked_embedding.") and isinstance(config, AssistantConfig):
        return "centroid head (switched off by use_ordered_embeddings)"
    parts = short.split(".")
    if len(parts) == 4 and parts[0] == "layers" and parts[2] == "self_attn" and parts[1].isdigit():
        if int(parts[1]) in shared and parts[3] in ("k_proj", "v_proj", "k_norm", "v_norm"):
            return "unused k/v of KV-shared layers"
        if parts[3] in ("k_cache_scale", "v_cache_scale"):  # neither does transformers' quantizer_gemma.py use them
            return "scales of an int8 KV cache (--kv has formats of its own)"
    return None
