"""Memory and speed of a model by its configuration, in the formats that it can be served in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from geminate.backends.kv_rings import RingFactory
from geminate.checkpoint.entries import Entry
from geminate.errors import GeminateError
from geminate.kv.store import KV_FORMATS, KVFormat
from geminate.params import MAX_DRAFT
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.tools.capacity.expected import Speed, expected_speed
from geminate.tools.capacity.here import Here
from geminate.tools.capacity.models import ACCEPTANCE
from geminate.tools.capacity.pass_costs import PassCosts
from geminate.tools.capacity.roofline import roofline
from geminate.tools.capacity.work import ModelWork, ShapeStore, model_work
from geminate.weights.presets import Preset
from geminate.weights.specs import expected_tensors

THOUSAND = 1000
PREFILL_ROWS = 256
# KL divergence from bf16 and most likely tokens that stay, of plain rounding: docs/quantization.md, embedded pair.
LOSS: Mapping[str, tuple[float, float]] = {
    "int8": (0.0001, 0.993), "int4+": (0.0043, 0.964), "int4": (0.0118, 0.929),
}  # fmt: skip
FORMATS: tuple[Preset, ...] = ("int8", "int4+", "int4", "bf16")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a pair takes in one format, and how fast it should be.

    Attributes:
        preset: the format. weights, drafter: bytes of matrices in memory; drafter None without one.
        row_table: bytes of the table that is read from disk row by row.
        kv: bytes of keys and values of 1,000 tokens, and kv_more of each further 1,000.
        speed: None where this machine's rates are not known. work: of a pass.
    """

    preset: Preset
    weights: int
    drafter: int | None
    row_table: int
    kv: int
    kv_more: int
    speed: Speed | None
    work: ModelWork


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """An `Entry` of a file that is not here, of which only the type is known."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    nbytes: int = 0
    offset: int = 0
    grid: None = None
    whole_norm: bool = False


def unread_embeddings(dtype: str) -> Mapping[str, Entry]:
    """What is known of the tensors of a file that is not here: the type of its embeddings."""
    return {"embed_tokens": cast(Entry, _Unread(name="embed_tokens", dtype=dtype))}


def parameters(config: TargetConfig | AssistantConfig) -> int:
    """Parameters of a configuration: every tensor that the text part needs."""
    return sum(math.prod(spec.shape) for spec in expected_tensors(config) if spec.role != "order")


def kv_bytes(config: TargetConfig, kv: KVFormat) -> tuple[int, int]:
    """Bytes of keys and values of 1,000 tokens, and of each further 1,000 in a long context."""
    factory = RingFactory(config.kv_slots, max_rows=PREFILL_ROWS + MAX_DRAFT, dtype=KV_FORMATS[kv])
    near, far = 8 * THOUSAND, 16 * THOUSAND
    return factory.nbytes(THOUSAND), (factory.nbytes(far) - factory.nbytes(near)) // 8


def needs_of(
    config: TargetConfig,
    assistant: AssistantConfig | None,
    preset: Preset,
    here: Here | None,
    *,
    kv: KVFormat = "f16",
    entries: Mapping[str, Entry] | None = None,
    costs: PassCosts | None = None,
    acceptance: str = "published",
) -> Needs:
    """What a pair takes in a format.

    Args:
        here: this machine, or None for no speed. entries: how the target's tensors are stored; None: in no file.
        costs: measured ones; None computes them.
        acceptance: a name of `capacity.models.ACCEPTANCE`.
    """
    work = model_work(config, assistant, preset, entries)
    store = ShapeStore(config, preset, entries)
    speed = None
    if costs is None and here is not None:
        costs = roofline(work, here.machine, kv, probed=True)
    if costs is not None:
        speed = expected_speed(work, costs, ACCEPTANCE[acceptance][0] if assistant is not None else ())
    first, more = kv_bytes(config, kv)
    return Needs(
        preset=preset,
        weights=store.nbytes,
        drafter=None if assistant is None else work.weight_bytes - store.nbytes,
        row_table=_row_tables(config, preset),
        kv=first,
        kv_more=more,
        speed=speed,
        work=work,
    )


def formats_of(make: Callable[[Preset], Needs], first: Preset) -> list[Needs]:
    """The formats to choose from, ``first`` at the front; those that a checkpoint cannot be served in are left out."""
    found = []
    for preset in dict.fromkeys((first, *FORMATS)):
        try:
            found.append(make(preset))
        except GeminateError:
            continue
    return found


def loss(preset: str) -> str:
    """What a format costs in quality, in words."""
    if preset == "bf16":
        return "as published"
    if preset == "mobile":
        return "as trained"
    if preset not in LOSS:
        return "as stored"
    divergence, same = LOSS[preset]
    return f"KL {divergence:g}, {same:.1%} same first choice"


def _row_tables(config: TargetConfig, preset: Preset) -> int:
    bits = {"bf16": 16.0, "mobile": 4.0}.get(preset, 8.5)
    cells = sum(math.prod(spec.shape) for spec in expected_tensors(config) if spec.role == "row_table")
    return int(cells * bits / 8)
