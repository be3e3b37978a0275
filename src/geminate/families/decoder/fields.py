"""Typed fields of config.json, declared in a table and read by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geminate.errors import ConfigError, shown


@dataclass(frozen=True)
class Integer:
    """A non-negative integer field.

    Attributes:
        default: where the field is absent or null; None: it must be there.
        positive: whether 0 is refused.
        most: the largest value; far above what any model has, and far below what would hang or fill the memory.
    """

    default: int | None = None
    positive: bool = True
    most: int = 1 << 20


@dataclass(frozen=True)
class Number:
    """A finite number field; see `Integer`. null is no number."""

    default: float
    positive: bool = True


MAX_LAYERS = 10_000
MAX_VOCAB = 1 << 24
MAX_POSITIONS = 1 << 31
DECODER: dict[str, Integer | Number] = {
    "hidden_size": Integer(),
    "vocab_size": Integer(262_144, most=MAX_VOCAB),
    "num_hidden_layers": Integer(most=MAX_LAYERS),
    "num_attention_heads": Integer(),
    "num_key_value_heads": Integer(),
    "num_global_key_value_heads": Integer(),
    "head_dim": Integer(256),
    "global_head_dim": Integer(512),
    "intermediate_size": Integer(),
    "sliding_window": Integer(512, most=MAX_POSITIONS),
    "num_kv_shared_layers": Integer(0, positive=False, most=MAX_LAYERS),
    "hidden_size_per_layer_input": Integer(256, positive=False),
    "vocab_size_per_layer_input": Integer(0, positive=False, most=MAX_VOCAB),
    "num_experts": Integer(),
    "top_k_experts": Integer(),
    "moe_intermediate_size": Integer(),
    "max_position_embeddings": Integer(131_072, most=MAX_POSITIONS),
    "rms_norm_eps": Number(1e-6, positive=False),
    "final_logit_softcapping": Number(30.0),
    "query_pre_attn_scalar": Number(1.0),
}
ROPE: dict[str, Integer | Number] = {
    "partial_rotary_factor": Number(1.0, positive=False),
    "factor": Number(1.0),
    "rope_theta": Number(10_000.0),
}
DRAFTER: dict[str, Integer | Number] = {
    "backbone_hidden_size": Integer(positive=False),
    "num_centroids": Integer(2048, positive=False),
    "centroid_intermediate_top_k": Integer(32, positive=False),
}


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


class Fields:
    """Values of a JSON object by the table that declares them; checked when they are read.

    Args:
        raw: the object. table: what its fields hold.
    """

    def __init__(self, raw: Mapping[str, Any], table: Mapping[str, Integer | Number]) -> None:
        self.raw, self._table = raw, table

    def integer(self, name: str, default: int | None = None) -> int:
        """An `Integer` field; ``default`` goes before the table's.

        Raises:
            ConfigError: something else stands there.
        """
        kind = self._table[name]
        assert isinstance(kind, Integer)
        value = self.raw.get(name)
        if value is None:
            value = kind.default if default is None else default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"config.json: {name} must be a non-negative integer, not {shown(value)}")
        if kind.positive and value == 0:
            raise ConfigError(f"config.json: {name} must be positive")
        if value > kind.most:
            raise ConfigError(f"config.json: {name} is {shown(value)}; at most {kind.most:,} is supported")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A `Number` field; see `integer`."""
        kind = self._table[name]
        assert isinstance(kind, Number)
        value = self.raw.get(name, kind.default if default is None else default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise ConfigError(f"config.json: {name} must be a number, not {shown(value)}")
        if value < 0 or (kind.positive and value == 0):
            least = "positive" if kind.positive else "at least 0"
            raise ConfigError(f"config.json: {name} must be {least}, not {shown(value)}")
        return float(value)
