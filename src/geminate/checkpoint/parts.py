"""The tensors that stand for one quantized module, by the last part of their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from geminate.checkpoint.entries import Entry
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import WeightsError

FLOATS = ("F32", "BF16", "F16")
TOWERS = ("vision", "audio")  # never read, whatever they hold
Parts = Mapping[str, TensorEntry]


def by_module(
    entries: Mapping[str, Entry], parts: Collection[str], *, towers: bool = False
) -> tuple[dict[str, dict[str, TensorEntry]], dict[str, Entry]]:
    """Tensors ``MODULE.part`` by module and part, and all others by name.

    Args:
        towers: sort those of the vision and audio towers as well.
    """
    modules: dict[str, dict[str, TensorEntry]] = {}
    others: dict[str, Entry] = {}
    for name, entry in entries.items():
        module, _, part = name.rpartition(".")
        if part in parts and isinstance(entry, TensorEntry) and (towers or not any(word in name for word in TOWERS)):
            modules.setdefault(module, {})[part] = entry
        else:
            others[name] = entry
    return modules, others


def plain(module: str, parts: Parts) -> TensorEntry:
    """The weight of a module that is not quantized.

    Raises:
        WeightsError: it is.
    """
    entry = next(iter(parts.values()))
    if set(parts) != {"weight"} or entry.dtype not in FLOATS:
        raise WeightsError(
            f"{entry.path}: {module} is stored as {', '.join(sorted(parts))} ({entry.dtype}), but quantization_config "
            "says that it is not quantized"
        )
    return entry


def taken(
    module: str, parts: Parts, bits: int, needed: tuple[str, ...], may: tuple[str, ...] = ()
) -> list[TensorEntry]:
    """The needed parts, if nothing else but those that may be stands there.

    Raises:
        WeightsError: one is missing, or there are others.
    """
    path = next(iter(parts.values())).path
    for part in needed:
        if part not in parts:
            raise WeightsError(
                f"{path}: {module} has no {part} beside {', '.join(sorted(parts))}; quantization_config says that it "
                f"has {bits} bits"
            )
    if other := sorted(set(parts) - {*needed, *may}):
        raise WeightsError(f"{path}: {module} has {', '.join(other)} beside {', '.join(needed)}")
    return [parts[part] for part in needed]


def activations(parts: Parts, sides: tuple[str, ...]) -> tuple[float, float]:
    """Input and output scale by the names of their parts; 0 without one.

    Raises:
        WeightsError: not one number, negative or not finite.
    """
    into, out = (_activation(parts.get(side)) for side in sides) if sides else (0.0, 0.0)
    return into, out


def _activation(entry: TensorEntry | None) -> float:
    if entry is None:
        return 0.0
    if entry.dtype not in FLOATS or entry.shape not in ((), (1,)):
        raise WeightsError(f"{entry.path}: {entry.name} must be one number, not {entry.dtype} {list(entry.shape)}")
    value = float(np.float32(replace(entry, shape=(1,)).rows(0, 1)[0]))
    if not (np.isfinite(value) and value >= 0):
        raise WeightsError(f"{entry.path}: {entry.name} is {value}; it must be finite and not negative")
    return value
