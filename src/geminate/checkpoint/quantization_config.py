"""``quantization_config``: how a checkpoint's modules are stored, by the methods that are read.

``gemma`` is transformers' GemmaQuantizationConfig (quantizers/quantizer_gemma.py); see `row_scaled`. Others have files
of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from geminate.checkpoint.coded_tensors import WAY_OUT
from geminate.checkpoint.compressed_tensors import compressed_scheme
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.gptq_awq import awq_scheme, gptq_scheme
from geminate.checkpoint.name_patterns import compiled
from geminate.checkpoint.parts import Parts, by_module, plain
from geminate.checkpoint.quantization_fields import (
    MAX_PATTERNS,
    WHERE,
    Kind,
    names_field,
    object_field,
    only_known,
)
from geminate.checkpoint.row_scaled import gemma_entry
from geminate.errors import ConfigError, shown

BITS = (2, 4, 8)
EMBEDDING = "model.language_model.embed_tokens"
TABLES = ("embed_tokens", "embed_tokens_per_layer")
_BEHIND = r"(?:(?<=\.)|(?=\.|$))"  # a pattern ends where a part of the name ends


class Scheme(Protocol):
    """How a checkpoint's modules are stored.

    Attributes:
        method: the configuration's word for it.
        parts: last parts of the names of the tensors that belong to a module.
    """

    @property
    def method(self) -> str: ...
    @property
    def parts(self) -> tuple[str, ...]: ...

    def bits(self, module: str, kind: Kind) -> int | None:
        """Bits of a module's weights by its name; None for one that is not quantized, or if names do not say."""
        ...

    def entry(self, module: str, parts: Parts, kind: Kind) -> Entry:
        """A module's weight.

        Raises:
            WeightsError: parts that are missing, or do not go together or with the scheme; the tensor is named.
        """
        ...


def quantization_scheme(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme of a config.json; None without one, or with another method.

    Raises:
        ConfigError: a field that is not supported.
    """
    text = config.get("text_config")
    sections = [config, text] if isinstance(text, Mapping) else [config]
    found = [section[WHERE] for section in sections if section.get(WHERE) is not None]
    ours = [raw for raw in found if isinstance(raw, Mapping) and raw.get("quant_method") in METHODS]
    if not ours:
        return None
    if any(raw != ours[0] for raw in found):
        raise ConfigError(f"config.json has two different {WHERE}; delete the wrong one")
    read, what = METHODS[ours[0]["quant_method"]]
    try:
        return read(ours[0])
    except ConfigError as error:
        raise ConfigError(f"{error}; {what}: {WAY_OUT}" if what else str(error)) from None


def with_quantized(entries: Mapping[str, Entry], scheme: Scheme) -> dict[str, Entry]:
    """Plain tensors as they are, and the parts of every quantized one as one entry, named like a plain one.

    Raises:
        WeightsError: see `Scheme.entry`.
    """
    modules, found = by_module(entries, scheme.parts)
    for module, parts in modules.items():
        kind: Kind = "Embedding" if module.rpartition(".")[2] in TABLES else "Linear"
        weight = parts.get("weight")
        norm = len(parts) == 1 and weight is not None and len(weight.shape) != 2
        found[f"{module}.weight"] = weight if norm and weight is not None else scheme.entry(module, parts, kind)
    return found


def _checked_bits(value: Any, where: str) -> int:
    if value not in BITS or isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{where} must be 2, 4 or 8, not {shown(value)}")
    return value


@dataclass(frozen=True, kw_only=True)
class GemmaScheme:
    """transformers' ``gemma`` method.

    Attributes:
        overrides: (pattern, bits), the first that is found in a name decides. skipped: names, or patterns that match
            from a name's start, of modules that are not quantized.
    """

    method: ClassVar[str] = "gemma"
    parts: ClassVar[tuple[str, ...]] = (
        "weight", "embedding_quantized", "weight_scale", "embedding_scale", "input_activation_scale",
        "output_activation_scale",
    )  # fmt: skip
    default: int
    embeddings: bool
    overrides: tuple[tuple[re.Pattern[str], int], ...]
    skipped: tuple[tuple[str, re.Pattern[str]], ...]

    def bits(self, module: str, kind: Kind) -> int | None:
        """See `Scheme`."""
        if kind == "Embedding" and not self.embeddings:
            return None
        if any(module.endswith(name) or pattern.match(module) for name, pattern in self.skipped):
            return None
        return next((bits for pattern, bits in self.overrides if pattern.search(module)), self.default)

    def entry(self, module: str, parts: Parts, kind: Kind) -> Entry:
        """See `Scheme`."""
        bits = self.bits(module, kind)
        return plain(module, parts) if bits is None else gemma_entry(module, parts, bits, kind)


def _gemma(raw: Mapping[str, Any]) -> GemmaScheme:
    where = WHERE
    known = ("quant_method", "num_bits", "quantize_embeddings", "module_quant_configs", "modules_to_not_convert")
    only_known(raw, known, where)
    default = _checked_bits(raw.get("num_bits", 4), f"{where}.num_bits")
    embeddings = raw.get("quantize_embeddings", False)
    if not isinstance(embeddings, bool):
        raise ConfigError(f"{where}.quantize_embeddings must be true or false, not {shown(embeddings)}")
    skipped = raw.get("modules_to_not_convert")
    # Without a list transformers leaves the head as it is.
    skipped = ["lm_head"] if skipped is None else names_field(skipped, f"{where}.modules_to_not_convert", MAX_PATTERNS)
    modules = object_field(raw.get("module_quant_configs") or {}, f"{where}.module_quant_configs")
    if len(modules) > MAX_PATTERNS:
        raise ConfigError(f"{where}.module_quant_configs has {len(modules)} entries; at most {MAX_PATTERNS} are read")
    overrides: list[tuple[re.Pattern[str], int]] = []
    for pattern, options in modules.items():
        here = f"{where}.module_quant_configs[{shown(pattern)}]"
        only_known(object_field(options, here), ("num_bits",), here)
        bits = _checked_bits(options.get("num_bits", default), f"{here}.num_bits")
        overrides.append((compiled(pattern, f"{where}.module_quant_configs"), bits))
    return GemmaScheme(
        default=default,
        embeddings=embeddings,
        overrides=tuple(overrides),
        skipped=tuple((name, _behind(name, f"{where}.modules_to_not_convert")) for name in skipped),
    )


def _behind(pattern: str, where: str) -> re.Pattern[str]:
    compiled(pattern, where)
    return re.compile(f"(?:{pattern}){_BEHIND}")


METHODS: dict[str, tuple[Callable[[Mapping[str, Any]], Scheme], str]] = {
    "gemma": (_gemma, ""),
    "compressed-tensors": (
        compressed_scheme,
        "of compressed-tensors, symmetric int4 and int8 weights by groups of a multiple of 32 columns or by output row "
        "are read, and 2, 4 and 8 bits with static int8 activations",
    ),
    "gptq": (gptq_scheme, "of GPTQ, symmetric 4- and 8-bit weights without reordered columns are read"),
    "awq": (awq_scheme, "of AWQ, 4-bit weights of the version gemm without zero points are read"),
}
