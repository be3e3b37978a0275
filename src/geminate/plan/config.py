"""What a target and a drafter are: frozen shapes that families read from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from geminate.arrays import F32
from geminate.elementary import power
from geminate.kv.store import SlotSpec

LayerKind = Literal["sliding_attention", "full_attention"]
CheckpointDtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One decoder layer.

    Attributes:
        window: sliding window in positions, the row's own included; 0 for full attention.
        k_eq_v: V is the normed output of k_proj.
        kv_shared: the layer has no K and V of its own and reads layer ``kv_donor``'s (else its own index).
        intermediate: MLP width, doubling on KV-shared layers included.
        query_scale: factor of the attention scores .
        v_norm: V is normed, without a weight.
        layer_scalar: the layer's output is multiplied by a stored number.
    """

    index: int
    kind: LayerKind
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    k_eq_v: bool
    kv_shared: bool
    kv_donor: int
    intermediate: int
    query_scale: float = 1.0
    v_norm: bool = True
    layer_scalar: bool = True


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Expert block beside the dense MLP."""

    num_experts: int
    top_k: int
    intermediate: int


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary parameters of one layer kind.

    Attributes:
        partial_rotary_factor: read by ``proportional`` alone.
        factor: divides every frequency; 1 for ``default``.
    """

    rope_type: Literal["default", "linear", "proportional"]
    theta: float
    partial_rotary_factor: float
    factor: float


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """What generation_config.json recommends; None where it has no value."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """A decoder: a target, or the text part of a drafter.

    Attributes:
        embed_scale, ple_scale: sqrt of the widths, rounded to the checkpoint's dtype as transformers does.
        ple_dim: width of a layer's per-layer embedding, 0 for none.
        norm_unit_offset: norms multiply by 1 + w, and safetensors hold w.
        tied_head: the token embedding makes the logits; else a matrix of its own, ``lm_head``, does.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    rms_norm_eps: float
    softcap: float | None
    embed_scale: float
    ple_dim: int
    ple_vocab: int
    ple_scale: float
    rope: Mapping[str, RopeConfig]
    max_position_embeddings: int
    moe: MoeConfig | None
    eos_token_ids: tuple[int, ...]
    dtype: CheckpointDtype
    norm_unit_offset: bool = False
    tied_head: bool = True
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)

    @property
    def kv_slots(self) -> tuple[SlotSpec, ...]:
        """One KV slot per layer that computes keys and values, in layer order."""
        return tuple(
            SlotSpec(kv_heads=layer.kv_heads, head_dim=layer.head_dim, window=layer.window)
            for layer in self.layers
            if not layer.kv_shared
        )

    def inv_freq(self, kind: str) -> F32:
        """Frequencies of the rotated pairs of a layer kind, float32 [pairs].

        As transformers' ``compute_default_rope_parameters``, ``_compute_linear_scaling_rope_parameters`` and
        ``_compute_proportional_rope_parameters``: all divide by the full head_dim; proportional rotates
        int(part * head_dim // 2) pairs, the rest have frequency zero and are left out here. The power is taken in
        float64, with the same bits on every machine, and rounded once.
        """
        rope = self.rope[kind]
        dim = next(layer.head_dim for layer in self.layers if layer.kind == kind)
        pairs = dim // 2
        if rope.rope_type == "proportional":
            pairs = int(rope.partial_rotary_factor * dim // 2)
        exponent = np.arange(0, 2 * pairs, 2, dtype=np.float32) / np.float32(dim)
        inverse = np.float32(1.0) / power(rope.theta, exponent.astype(np.float64)).astype(np.float32)
        scaled: F32 = (inverse / np.float32(rope.factor)).astype(np.float32)
        return scaled


@dataclass(frozen=True, kw_only=True)
class AssistantConfig:
    """An MTP drafter.

    Attributes:
        text: its own layers; all KV-shared.
        use_ordered_embeddings: the centroid head stands between the norm and the tied table.
        centroid_top_k: clusters whose tokens are scored.
    """

    model_type: str
    text: TargetConfig
    backbone_hidden_size: int
    use_ordered_embeddings: bool
    num_centroids: int
    centroid_top_k: int
