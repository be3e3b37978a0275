"""Writes GGUF files: metadata, a tokenizer, and tensors one by one, so that none but the current is in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf import GgufCheckpoint
from geminate.checkpoint.gguf_tokenizer import BYTE, CONTROL, LISTED, NORMAL, SPECIALS, UNUSED, USER_DEFINED
from geminate.errors import StorageError, TokenizerError
from geminate.formats.rounding import f32_to_bf16

StoredType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "I32"]
PLAIN: dict[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4"}
BLOCK = 32  # columns of a block of Q8_0 and Q4_0
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, kw_only=True)
class GgufPlan:
    """A tensor to be written.

    Attributes:
        shape: rows first. values: makes it, float32 or int32.
    """

    name: str
    shape: tuple[int, ...]
    stored: StoredType
    values: Callable[[], np.ndarray]

    def encoded(self) -> np.ndarray:
        """As it is stored: plain numbers, or uint8 [rows, bytes] of blocks."""
        from gguf import GGMLQuantizationType, quantize

        values = self.values().reshape(self.shape)
        if self.stored == "BF16":
            return f32_to_bf16(values)
        if self.stored in PLAIN:
            return values.astype(PLAIN[self.stored])
        return np.asarray(quantize(values, GGMLQuantizationType[self.stored]))


def write_gguf(path: Path, architecture: str, metadata: Mapping[str, Any], tensors: Sequence[GgufPlan]) -> None:
    """Write a file, whole or not at all.

    Args:
        metadata: values by full key: strings, booleans, integers (as uint32), floats (as float32) or lists of them.

    Raises:
        StorageError: it cannot be written.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

    new = path.with_name(f".{path.name}.new")
    try:
        writer = GGUFWriter(new, architecture)
        for key, value in metadata.items():
            _add(writer, key, value)
        for plan in tensors:
            kind = GGMLQuantizationType[plan.stored]
            weights, size = GGML_QUANT_SIZES[kind]
            *front, last = plan.shape
            stored = (*front, last // weights * size) if weights > 1 or plan.stored == "BF16" else plan.shape
            number = np.dtype(np.uint8) if stored != plan.shape else np.dtype(PLAIN[plan.stored])
            writer.add_tensor_info(plan.name, stored, number, int(np.prod(stored)) * number.itemsize, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for plan in tensors:
            writer.write_tensor_data(plan.encoded())
        writer.close()
        new.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        new.unlink(missing_ok=True)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def tokenizer_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint's tokenizer under the keys of a GGUF file.

    Raises:
        TokenizerError: it has none, or one that is no BPE with merges.
    """
    if isinstance(checkpoint, GgufCheckpoint):
        kept = {key: value for key, value in checkpoint.metadata.items() if key.startswith("tokenizer.")}
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in kept.items()}
    parts = checkpoint.tokenizer()
    if parts is None:
        raise TokenizerError(f"{checkpoint.path} has no tokenizer, which the file needs")
    raw = json.loads(parts.backend.to_str())
    merges = raw["model"].get("merges")
    if raw["model"].get("type") != "BPE" or not merges:
        raise TokenizerError(f"{checkpoint.path} has a tokenizer other than BPE with merges; GGUF has no name for it")
    vocabulary = parts.backend.get_vocab(with_added_tokens=True)
    tokens = [f"[PAD{i}]" for i in range(max(vocabulary.values()) + 1)]
    types = [UNUSED] * len(tokens)
    for text, i in vocabulary.items():
        tokens[i], types[i] = text, BYTE if _BYTE.fullmatch(text) else NORMAL
    for added in raw.get("added_tokens") or ():
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    prefix = "tokenizer.ggml"
    found: dict[str, Any] = {
        f"{prefix}.model": LISTED,
        f"{prefix}.tokens": tokens,
        f"{prefix}.scores": [0.0] * len(tokens),
        f"{prefix}.token_type": types,
        f"{prefix}.merges": [each if isinstance(each, str) else " ".join(each) for each in merges],
        f"{prefix}.add_bos_token": parts.add_bos,
        f"{prefix}.add_space_prefix": False,
    }
    for theirs, ours in SPECIALS.items():
        special = (parts.specials or {}).get(f"{ours}_token")
        if special in vocabulary:
            found[f"{prefix}.{theirs}_token_id"] = vocabulary[str(special)]
    return found
