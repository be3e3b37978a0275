"""Checkpoints of the compressed-tensors package: integer weights, packed or not, by groups or by output row.

A module holds ``weight_packed`` int32 [n, words], low bits first, codes stored as code + 2^(bits - 1), with
``weight_shape`` [2]; or, for 8 bits, ``weight`` int8 [n, k]. ``weight_scale`` has a number for each group of columns,
[n, groups], or for each row, [n, 1]. ``input_scale`` and ``output_scale`` are of static int8 activations (vLLM's
CompressedTensorsWNA8O8Int). The layout is that of compressed-tensors 0.20.1, compressors/pack_quantized.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from geminate.checkpoint.coded_tensors import CodedEntry, RowMajorCodes
from geminate.checkpoint.entries import Entry, Grid
from geminate.checkpoint.name_patterns import compiled
from geminate.checkpoint.parts import FLOATS, Parts, activations, plain, taken
from geminate.checkpoint.quantization_fields import (
    MAX_PATTERNS,
    WHERE,
    Kind,
    group_field,
    names_field,
    object_field,
    one_of,
    only_known,
)
from geminate.checkpoint.row_scaled import RowScaledEntry, row_scaled
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import ConfigError, WeightsError, shown

MAX_TARGETS = 100_000
MAX_COLUMNS = 1 << 31
GRIDS: dict[int, Grid] = {4: "int4", 8: "int8"}


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Modules that a list names: by name, by a pattern behind ``re:``, or by kind."""

    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def by_name(self, module: str) -> bool:
        return module in self.names or any(pattern.match(module) for pattern in self.patterns)


def _targets(value: Any, where: str) -> _Targets:
    listed = names_field(value, where, MAX_TARGETS)
    patterns = [name.removeprefix("re:") for name in listed if name.startswith("re:")]
    if len(patterns) > MAX_PATTERNS:
        raise ConfigError(f"{where} has {len(patterns)} patterns; at most {MAX_PATTERNS} are read")
    return _Targets(
        names=frozenset(name for name in listed if not name.startswith("re:")),
        patterns=tuple(compiled(pattern, where) for pattern in patterns),
    )


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """How the weights of a group of modules are stored; ``group``: columns that share a scale, 0: one scale a row."""

    bits: int
    group: int


@dataclass(frozen=True, kw_only=True)
class CompressedScheme:
    """Groups of modules, each with its kind of weights; a module's name goes before its kind.

    Attributes:
        static: activations of some modules are rounded with scales of the file: a checkpoint for devices, whose tables
            and matrices all have scales by row.
    """

    method: ClassVar[str] = "compressed-tensors"
    parts: ClassVar[tuple[str, ...]] = (
        "weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "input_scale",
        "output_scale",
    )  # fmt: skip
    groups: tuple[tuple[_Targets, _Weights], ...]
    ignored: _Targets
    static: bool

    def bits(self, module: str, kind: Kind) -> int | None:
        """See `Scheme`."""
        found = self._weights(module, kind)
        return None if found is None else found.bits

    def _weights(self, module: str, kind: Kind) -> _Weights | None:
        if self.ignored.by_name(module) or kind in self.ignored.names:
            return None
        named = next((weights for targets, weights in self.groups if targets.by_name(module)), None)
        return named or next((weights for targets, weights in self.groups if kind in targets.names), None)

    def entry(self, module: str, parts: Parts, kind: Kind) -> Entry:
        """See `Scheme`."""
        weights = self._weights(module, kind)
        if weights is None:
            return plain(module, parts)
        scales = parts.get("weight_scale")
        # A float32 scale of a row is kept as such: float16 would round it.
        by_row = weights.group == 0 and (weights.bits == 2 or (scales is not None and scales.dtype == "F32"))
        if self.static or by_row:
            return _by_row(module, parts, weights.bits, kind)
        return _by_group(module, parts, weights)


def compressed_scheme(raw: Mapping[str, Any]) -> CompressedScheme:
    """The scheme of a ``quantization_config``.

    Raises:
        ConfigError: a field that is not supported.
    """
    known = ("quant_method", "format", "config_groups", "ignore", "quantization_status", "global_compression_ratio",
             "version")  # fmt: skip
    only_known(raw, known, WHERE)
    if raw.get("quantization_status", "compressed") != "compressed":
        raise ConfigError(f"{WHERE}.quantization_status {shown(raw['quantization_status'])} is not supported")
    groups = object_field(raw.get("config_groups") or {}, f"{WHERE}.config_groups")
    if not 0 < len(groups) <= MAX_PATTERNS:
        raise ConfigError(f"{WHERE}.config_groups has {len(groups)} groups; 1 to {MAX_PATTERNS} are read")
    checked: list[tuple[Mapping[str, Any], str]] = []
    static = False
    for name, group in groups.items():
        here = f"{WHERE}.config_groups[{shown(name)}]"
        only_known(
            object_field(group, here), ("targets", "weights", "input_activations", "output_activations", "format"), here
        )
        form = group.get("format", raw.get("format"))
        if form not in ("pack-quantized", "int-quantized"):
            raise ConfigError(f"{here}.format {shown(form)} is not supported (pack-quantized and int-quantized are)")
        for side in ("input_activations", "output_activations"):
            static |= _static(group.get(side), f"{here}.{side}")
        checked.append((group, here))
    return CompressedScheme(
        groups=tuple(
            (
                _targets(group.get("targets"), f"{here}.targets"),
                _weights(group.get("weights"), f"{here}.weights", static),
            )
            for group, here in checked
        ),
        ignored=_targets(raw.get("ignore") or [], f"{WHERE}.ignore"),
        static=static,
    )


def _weights(raw: Any, where: str, static: bool) -> _Weights:
    raw = _arguments(raw, where)
    one_of(raw, where, "dynamic", False, (False,))
    by_row = one_of(raw, where, "strategy", None, ("channel", "group")) == "channel" or static
    bits = one_of(raw, where, "num_bits", 8, (2, 4, 8) if by_row else (4, 8))
    return _Weights(bits=bits, group=0 if by_row else group_field(raw, where))


def _static(raw: Any, where: str) -> bool:
    """Whether activations are rounded with a stored scale; rounding to int8 by token is done here by groups anyway."""
    if raw is None:
        return False
    arguments = _arguments(raw, where)
    one_of(arguments, where, "num_bits", 8, (8,))
    if raw.get("dynamic") is True and where.endswith("input_activations") and raw.get("strategy") == "token":
        return False
    one_of(arguments, where, "dynamic", False, (False,))
    one_of(arguments, where, "strategy", None, ("tensor",))
    return True


def _arguments(raw: Any, where: str) -> Mapping[str, Any]:
    """A QuantizationArgs object of symmetric integers whose columns stand in their order."""
    known = ("num_bits", "type", "symmetric", "strategy", "group_size", "dynamic", "observer", "observer_kwargs",
             "scale_dtype", "zp_dtype", "actorder")  # fmt: skip
    given = object_field(raw, where)
    only_known(given, known, where)
    one_of(given, where, "type", "int", ("int",))
    one_of(given, where, "symmetric", True, (True,))
    one_of(given, where, "actorder", None, (None, False, "weight", "static"))  # others move columns between groups
    return given


def _by_row(module: str, parts: Parts, bits: int, kind: Kind) -> RowScaledEntry:
    sides = () if kind == "Embedding" else ("input_scale", "output_scale")
    scaled = activations(parts, sides)
    if "weight_packed" in parts or bits != 8:
        stored, scales, shape = taken(module, parts, bits, ("weight_packed", "weight_scale", "weight_shape"), sides)
        made = row_scaled(stored, scales, bits, "I32", scaled, kind)
        return made.of_width(_columns(stored, shape))
    stored, scales = taken(module, parts, bits, ("weight", "weight_scale"), sides)
    return row_scaled(stored, scales, bits, "I8", scaled, kind)


def _columns(stored: TensorEntry, shape: TensorEntry) -> int:
    if shape.dtype not in ("I64", "I32") or shape.shape != (2,):
        raise WeightsError(f"{shape.path}: {shape.name} must hold two integers")
    n, k = (int(number) for number in shape.map())
    if len(stored.shape) != 2 or n != stored.shape[0] or not 0 < k < MAX_COLUMNS:
        raise WeightsError(
            f"{shape.path}: {shape.name} says [{n}, {k}], but {stored.name} is {stored.dtype} {list(stored.shape)}"
        )
    return k


def _by_group(module: str, parts: Parts, weights: _Weights) -> CodedEntry:
    bits = weights.bits
    if packed := "weight_packed" in parts or bits != 8:
        stored, scales, shape = taken(module, parts, bits, ("weight_packed", "weight_scale", "weight_shape"))
        k = _columns(stored, shape)
        fits = stored.dtype == "I32" and stored.shape[1] == -(-k * bits // 32)
    else:
        stored, scales = taken(module, parts, bits, ("weight", "weight_scale"))
        fits = stored.dtype == "I8" and len(stored.shape) == 2
        k = stored.shape[-1]
    if not fits:
        raise WeightsError(
            f"{stored.path}: {stored.name} is {stored.dtype} {list(stored.shape)}; {k} columns of {bits} bits are "
            f"stored as {'I32 [rows, words]' if packed else 'I8 [rows, columns]'}"
        )
    n, group = stored.shape[0], weights.group or max(1, k)
    groups = -(-k // group)
    if scales.dtype not in FLOATS or scales.shape not in ((n, groups), (n,) if groups == 1 else (n, groups)):
        raise WeightsError(
            f"{scales.path}: {scales.name} is {scales.dtype} {list(scales.shape)}; {n} rows of {k} columns in groups "
            f"of {group} have [{n}, {groups}] scales"
        )
    source = RowMajorCodes(stored=stored, stored_scales=scales, bits=bits, k=k, unsigned=packed and bits == 8)
    return CodedEntry(name=stored.name, shape=(n, k), grid=GRIDS[bits], source=source, group=group)
