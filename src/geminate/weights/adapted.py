"""Weights with LoRA adapters merged: in float32 and before any rounding, as PEFT merges them (tuners/lora, `merge`).

One adapter after the other: W + delta, or with DoRA m / |W0 + delta| * (W + delta), the norm over each output row of
the base's weight W0 (peft 0.21.2, tuners/lora/variants.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.checkpoint.adapter import Adapter, LowRank
from geminate.checkpoint.entries import Entry, Grid
from geminate.errors import WeightsError
from geminate.formats.table import ROW_FORMATS
from geminate.weights.specs import canonical

Merged = dict[str, Entry]


@dataclass(frozen=True, kw_only=True)
class MergedEntry:
    """A matrix or table with what adapters add to it; an `Entry`."""

    grid: ClassVar[Grid | None] = None
    whole_norm: ClassVar[bool] = False
    dtype: ClassVar[str] = "F32"
    offset: ClassVar[int] = 0
    base: Entry
    added: tuple[tuple[Path, LowRank], ...]

    @property
    def name(self) -> str:
        """The base's."""
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """The base's."""
        return self.base.nbytes

    def map(self) -> np.ndarray:
        """All of it as float32; not mapped, as nothing of it is stored."""
        return self.rows(0, self.shape[0])

    def codes(self, start: int, stop: int) -> tuple[I8, U16 | F32]:
        """Never: merged weights lie on no grid."""
        raise WeightsError(f"{self.name} has adapters merged and no codes")

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop, float32.

        Raises:
            WeightsError: the sum is not finite; the adapter is named.
        """
        base = self.base.rows(start, stop)
        merged = base
        for path, part in self.added:
            delta = part.rows(start, stop)
            if part.magnitude is None:
                merged = merged + delta
            else:
                merged = _factor(part.magnitude.rows(start, stop), base + delta)[:, None] * (merged + delta)
            if not np.isfinite(merged).all():
                raise WeightsError(f"{path} makes {self.name} not finite; the adapter is damaged, or not this base's")
        return merged


def _factor(magnitude: F32, rows: F32) -> F32:
    """Magnitudes [n] over the norms of rows [n, k]; the sums in float64, so that their order hardly matters."""
    norms = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros: what comes out is reported
        factor: F32 = magnitude / norms
    return factor


def with_adapters(
    entries: Mapping[str, Entry], adapters: Sequence[Adapter], *, tied: bool, unused: Callable[[str], bool]
) -> Merged:
    """All tensors, those that adapters change as `MergedEntry` or replaced by the adapter's own.

    Args:
        tied: embedding and head are one tensor.
        unused: whether a canonical name is of a tensor that the model does not compute with.

    Raises:
        WeightsError: a module that is not there, has another shape or cannot be changed; adapter and module are named.
    """
    found = dict(entries)
    names = {canonical(name): name for name in entries}
    replaced: set[str] = set()
    for adapter in adapters:
        _check_tied(adapter, tied)
        for module, saved in adapter.saved.items():
            short = canonical(module)
            if short in replaced:
                raise WeightsError(f"{adapter.path} holds whole weights of {module}, and so does an adapter before it")
            replaced.add(short)
            if short in names:
                _check_shape(adapter, module, saved.shape, found[names[short]])
                found[names[short]] = saved
            elif short == "lm_head":
                found[f"{module}.weight"] = saved  # `match` compares it with the embedding
            elif not unused(short):
                raise _missing(adapter, module)
    # All whole weights first: what is added is added to them.
    for adapter in adapters:
        for module, part in adapter.low_rank.items():
            short = canonical(module)
            if unused(short):
                continue
            name = names.get(short)
            if name is None:
                raise _missing(adapter, module)
            found[name] = _with(found[name], adapter, module, part)
    return found


def _with(entry: Entry, adapter: Adapter, module: str, part: LowRank) -> MergedEntry:
    if entry.grid in ROW_FORMATS.values():
        raise WeightsError(
            f"{adapter.path} cannot be merged into {module}: the weights were trained together with static "
            "activations; merge it into the bf16 checkpoint"
        )
    _check_shape(adapter, module, part.shape, entry)
    base, before = (entry.base, entry.added) if isinstance(entry, MergedEntry) else (entry, ())
    return MergedEntry(base=base, added=(*before, (adapter.path, part)))


def _check_shape(adapter: Adapter, module: str, shape: tuple[int, ...], entry: Entry) -> None:
    if shape != entry.shape:
        raise WeightsError(
            f"{adapter.path} is for another base: {module} is {list(shape)} there, and {list(entry.shape)} here"
        )


def _check_tied(adapter: Adapter, tied: bool) -> None:
    """Embedding and head are one tensor: an adapter that changes one of them was trained for a model that has two."""
    if not tied:
        return
    ends = ("embed_tokens", "lm_head")
    if changed := next((m for m in adapter.low_rank if canonical(m) in ends), None):
        raise WeightsError(
            f"{adapter.path} cannot be merged: it changes {changed} by itself, but embedding and head are one "
            "tensor here"
        )
    saved = {canonical(module) for module in adapter.saved} & set(ends)
    if len(saved) == 1 and not (saved == {"embed_tokens"} and adapter.tied):
        raise WeightsError(
            f"{adapter.path} cannot be merged: it holds another {saved.pop()} alone, but embedding and head are one "
            "tensor here (ensure_weight_tying keeps them so in training)"
        )


def _missing(adapter: Adapter, module: str) -> WeightsError:
    return WeightsError(f"{adapter.path} changes {module}, which this model does not have; it is for another base")
