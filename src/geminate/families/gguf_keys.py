"""Reading a GGUF file's metadata: keys under an architecture's prefix, and what all decoders have in common there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geminate.checkpoint.gguf_file import GgufFile
from geminate.errors import ConfigError, shown
from geminate.families.decoder.fields import MAX_LAYERS


class GgufKeys:
    """Metadata under one architecture's prefix."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.metadata, self.arch = file, file.metadata, file.architecture

    def get(self, name: str, default: Any = None) -> Any:
        value = self.metadata.get(f"{self.arch}.{name}", default)
        return value.tolist() if isinstance(value, np.ndarray) else value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ConfigError(f"{self.file.path} lacks the metadata {self.arch}.{name}; take a newer file")
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.need(name) if default is None else self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{self.file.path}: {self.arch}.{name} is {shown(value)}, not a number of anything")
        return value

    def per_layer(self, name: str, count: int) -> list[int]:
        """One number for all layers, or one each."""
        value = self.need(name)
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise ConfigError(f"{self.file.path}: {self.arch}.{name} does not hold one number per layer")
        return values


def common_text(keys: GgufKeys, turn_ends: Sequence[str]) -> dict[str, Any]:
    """The fields of config.json's ``text_config`` that every decoder has.

    Args:
        turn_ends: tokens that end a turn and that files name by their text alone.

    Raises:
        ConfigError: metadata that is missing or contradictory.
    """
    file = keys.file
    count = keys.number("block_count")
    if not 0 < count <= MAX_LAYERS:
        raise ConfigError(f"{file.path}: {count} layers")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ConfigError(f"{file.path} has no token embedding (token_embd.weight): not a whole model")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": keys.number("embedding_length"),
        "num_hidden_layers": count,
        "num_attention_heads": keys.number("attention.head_count"),
        "max_position_embeddings": keys.number("context_length"),
        "rms_norm_eps": keys.need("attention.layer_norm_rms_epsilon"),
        "final_logit_softcapping": keys.get("final_logit_softcapping"),
        "eos_token_id": _ends(file, turn_ends),
    }


def _ends(file: GgufFile, turn_ends: Sequence[str]) -> list[int]:
    found = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        found += [tokens.index(name) for name in turn_ends if name in tokens]
    return sorted({i for i in found if isinstance(i, int)})


def layer_kinds(keys: GgufKeys, count: int, default: int) -> list[str]:
    """Kinds of the layers: a flag each, or every n-th one full."""
    pattern = keys.get("attention.sliding_window_pattern", default)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        flags = [(i + 1) % pattern != 0 for i in range(count)]
    elif isinstance(pattern, list) and len(pattern) == count:
        flags = [bool(flag) for flag in pattern]
    else:
        raise ConfigError(f"{keys.file.path}: {keys.arch}.attention.sliding_window_pattern does not fit {count} layers")
    return ["sliding_attention" if flag else "full_attention" for flag in flags]


def mlp_width(keys: GgufKeys, count: int) -> int:
    widths = keys.per_layer("feed_forward_length", count)
    if len(set(widths)) != 1:
        raise ConfigError(
            f"{keys.file.path}: layers of {shown(sorted(set(widths)))} feed-forward widths are not supported"
        )
    return widths[0]
