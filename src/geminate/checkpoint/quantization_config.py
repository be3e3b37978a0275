"""``quantization_config`` of checkpoints with static activations: which modules are quantized, and to how many bits.

Two methods hold the same numbers: ``gemma`` (transformers' GemmaQuantizationConfig, quantizers/quantizer_gemma.py) and
``compressed-tensors`` with int weights per output row and static int8 inputs and outputs (vLLM's WNA8O8Int). A field
that would change the arithmetic into something that is not computed here is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from geminate.checkpoint.name_patterns import compiled
from geminate.errors import ConfigError, shown

BITS = (2, 4, 8)
METHODS = ("gemma", "compressed-tensors")
MAX_PATTERNS = 64
MAX_TARGETS = 100_000
Kind = Literal["Linear", "Embedding"]
EMBEDDING = "model.language_model.embed_tokens"
_BEHIND = r"(?:(?<=\.)|(?=\.|$))"  # a pattern ends where a part of the name ends
_NOTHING: tuple[Any, ...] = (None, False, {}, [], "")


class StaticScheme(Protocol):
    """How a checkpoint's modules are quantized.

    Attributes:
        method: the configuration's word for it.
    """

    @property
    def method(self) -> str: ...

    def bits(self, module: str, kind: Kind) -> int | None:
        """Bits of a module's weights; None for one that is not quantized."""
        ...


def static_scheme(config: Mapping[str, Any]) -> StaticScheme | None:
    """The scheme of a config.json; None without one, or with another method.

    Raises:
        ConfigError: a field that is not supported.
    """
    text = config.get("text_config")
    sections = [config, text] if isinstance(text, Mapping) else [config]
    found = [section["quantization_config"] for section in sections if section.get("quantization_config") is not None]
    ours = [raw for raw in found if isinstance(raw, Mapping) and raw.get("quant_method") in METHODS]
    if not ours:
        return None
    if any(raw != ours[0] for raw in found):
        raise ConfigError("config.json has two different quantization_config; delete the wrong one")
    raw = ours[0]
    if raw["quant_method"] == "gemma":
        return _gemma(raw)
    try:
        return _compressed(raw)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; of compressed-tensors only integer weights by output row with static int8 activations are read: "
            "take the bf16 checkpoint (--weights int8 or int4 quantizes it here) or a GGUF file"
        ) from None


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be an object, not {shown(value)}")
    return value


def _names(value: Any, where: str, most: int) -> list[str]:
    if not isinstance(value, list) or len(value) > most or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where} must be a list of at most {most:,} strings, not {shown(value)}")
    return value


def _only(raw: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name, value in raw.items():
        if name not in known and value not in _NOTHING:
            raise ConfigError(f"{where} sets {shown(name)}, which is not supported")


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

    method: str = "gemma"
    default: int
    embeddings: bool
    overrides: tuple[tuple[re.Pattern[str], int], ...]
    skipped: tuple[tuple[str, re.Pattern[str]], ...]

    def bits(self, module: str, kind: Kind) -> int | None:
        """See `StaticScheme`."""
        if kind == "Embedding" and not self.embeddings:
            return None
        if any(module.endswith(name) or pattern.match(module) for name, pattern in self.skipped):
            return None
        return next((bits for pattern, bits in self.overrides if pattern.search(module)), self.default)


def _gemma(raw: Mapping[str, Any]) -> GemmaScheme:
    where = "quantization_config"
    known = ("quant_method", "num_bits", "quantize_embeddings", "module_quant_configs", "modules_to_not_convert")
    _only(raw, known, where)
    default = _checked_bits(raw.get("num_bits", 4), f"{where}.num_bits")
    embeddings = raw.get("quantize_embeddings", False)
    if not isinstance(embeddings, bool):
        raise ConfigError(f"{where}.quantize_embeddings must be true or false, not {shown(embeddings)}")
    skipped = raw.get("modules_to_not_convert")
    # Without a list transformers leaves the head as it is.
    skipped = ["lm_head"] if skipped is None else _names(skipped, f"{where}.modules_to_not_convert", MAX_PATTERNS)
    modules = _object(raw.get("module_quant_configs") or {}, f"{where}.module_quant_configs")
    if len(modules) > MAX_PATTERNS:
        raise ConfigError(f"{where}.module_quant_configs has {len(modules)} entries; at most {MAX_PATTERNS} are read")
    overrides: list[tuple[re.Pattern[str], int]] = []
    for pattern, options in modules.items():
        here = f"{where}.module_quant_configs[{shown(pattern)}]"
        _only(_object(options, here), ("num_bits",), here)
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


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Modules that a list names: by name, by a pattern behind ``re:``, or by kind."""

    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def by_name(self, module: str) -> bool:
        return module in self.names or any(pattern.match(module) for pattern in self.patterns)


def _targets(value: Any, where: str) -> _Targets:
    listed = _names(value, where, MAX_TARGETS)
    patterns = [name.removeprefix("re:") for name in listed if name.startswith("re:")]
    if len(patterns) > MAX_PATTERNS:
        raise ConfigError(f"{where} has {len(patterns)} patterns; at most {MAX_PATTERNS} are read")
    return _Targets(
        names=frozenset(name for name in listed if not name.startswith("re:")),
        patterns=tuple(compiled(pattern, where) for pattern in patterns),
    )


@dataclass(frozen=True, kw_only=True)
class CompressedScheme:
    """compressed-tensors: groups of modules, each with bits; a module's name goes before its kind."""

    method: str = "compressed-tensors"
    groups: tuple[tuple[_Targets, int], ...]
    ignored: _Targets

    def bits(self, module: str, kind: Kind) -> int | None:
        """See `StaticScheme`."""
        if self.ignored.by_name(module) or kind in self.ignored.names:
            return None
        named = next((bits for targets, bits in self.groups if targets.by_name(module)), None)
        return named or next((bits for targets, bits in self.groups if kind in targets.names), None)


def _compressed(raw: Mapping[str, Any]) -> CompressedScheme:
    where = "quantization_config"
    known = ("quant_method", "format", "config_groups", "ignore", "quantization_status", "global_compression_ratio",
             "version")  # fmt: skip
    _only(raw, known, where)
    if raw.get("quantization_status", "compressed") != "compressed":
        raise ConfigError(f"{where}.quantization_status {shown(raw['quantization_status'])} is not supported")
    groups = _object(raw.get("config_groups") or {}, f"{where}.config_groups")
    if not 0 < len(groups) <= MAX_PATTERNS:
        raise ConfigError(f"{where}.config_groups has {len(groups)} groups; 1 to {MAX_PATTERNS} are read")
    read: list[tuple[_Targets, int]] = []
    for name, group in groups.items():
        here = f"{where}.config_groups[{shown(name)}]"
        _only(_object(group, here), ("targets", "weights", "input_activations", "output_activations", "format"), here)
        form = group.get("format", raw.get("format"))
        if form not in ("pack-quantized", "int-quantized"):
            raise ConfigError(f"{here}.format {shown(form)} is not supported (pack-quantized and int-quantized are)")
        bits = _group_bits(group.get("weights"), f"{here}.weights")
        for side in ("input_activations", "output_activations"):
            if group.get(side) is not None:
                _check_arguments(group[side], f"{here}.{side}", strategies=("tensor",), bits=(8,))
        read.append((_targets(group.get("targets"), f"{here}.targets"), bits))
    return CompressedScheme(groups=tuple(read), ignored=_targets(raw.get("ignore") or [], f"{where}.ignore"))


def _group_bits(weights: Any, where: str) -> int:
    return _check_arguments(weights, where, strategies=("channel", "group"), bits=BITS)


def _check_arguments(raw: Any, where: str, *, strategies: tuple[str, ...], bits: tuple[int, ...]) -> int:
    """Bits of a QuantizationArgs object: symmetric, static integers."""
    known = ("num_bits", "type", "symmetric", "strategy", "group_size", "dynamic", "observer", "observer_kwargs",
             "scale_dtype", "zp_dtype")  # fmt: skip
    _only(_object(raw, where), known, where)
    for name, default, legal in (
        ("type", "int", ("int",)),
        ("symmetric", True, (True,)),
        ("dynamic", False, (False,)),
        ("strategy", None, strategies),
        ("num_bits", 8, bits),
    ):
        if raw.get(name, default) not in legal:
            listed = ", ".join(shown(value) for value in legal)
            raise ConfigError(f"{where}.{name} is {shown(raw.get(name))}; supported: {listed}")
    found = raw.get("num_bits", 8)
    assert isinstance(found, int)
    return found
