"""`geminate quantize`: a model's matrices as codes and scales of the kernels' grids, in a directory of their own.

The result is served without naming a format, packs without a second rounding, and holds everything a model directory
holds. It is written beside its place and renamed: it is whole, or not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.backends.select import make_backend
from geminate.checkpoint.adapter import read_adapters
from geminate.checkpoint.coded_tensors import CODE_TYPES, CODES, METHOD, SCALES
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.packed import is_packed_path
from geminate.errors import ParameterError, QuantizationError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.formats.row_codes import pack_codes
from geminate.formats.table import FORMATS, ROW_FORMATS, WeightFormat, grouped, padded
from geminate.loading.drafters import check_drafter, drafter_errors
from geminate.loading.load import locate
from geminate.plan.config import TargetConfig
from geminate.text.tokenizer import Tokenizer
from geminate.text.windows import windows
from geminate.tools.quantize.importance import channel_importance
from geminate.tools.quantize.writer import Planned, write_safetensors
from geminate.weights.cache import Message
from geminate.weights.opening import open_weights
from geminate.weights.packing import Progress, passes_through
from geminate.weights.presets import Preset, tensor_format
from geminate.weights.scale_search import quantize_searched, recovered, trained_for_int4
from geminate.weights.specs import TensorSpec, canonical, expected_tensors, match

BLOCK_BYTES = 4 << 20
DRAFTER = "assistant"  # the folder of the copy in which `auto` finds it
NOT_CARRIED = "; it is in a packed file and stays there: name it with --drafter"
CARRIED = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "README*", "MODEL_CARD*")  # of a drafter's directory
TARGETS: tuple[Preset, ...] = ("int8", "int4+", "int4")
Stage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written.

    Attributes:
        directory, nbytes: where, and its bytes.
        drafter: where the drafter was copied to, inside the copy; None if there is none. drafter_note: on it, a line.
        exact, trained, searched, weighted: how many matrices came about in which way.
    """

    directory: Path
    nbytes: int
    drafter: Path | None
    drafter_note: str
    exact: int
    trained: int
    searched: int
    weighted: int


@dataclass(frozen=True, kw_only=True)
class _Plan:
    spec: TensorSpec
    entry: Entry
    name: str  # in the new file
    format: WeightFormat | None  # None: copied as it is


def quantize_model(
    model: str | Path | None,
    out: Path,
    preset: Preset,
    *,
    drafter: str | Path | None = "auto",
    adapters: Sequence[str | Path] = (),
    calibration: str | None = None,
    calibration_tokens: int = 8192,
    context: int = 512,
    threads: int | None = None,
    on_stage: Stage = lambda what, done, total: None,
    on_message: Message | None = None,
) -> Quantized:
    """Write a quantized copy of a target, with its drafter as it is.

    Args:
        model, drafter: as for `geminate.LLM`. out: a directory that does not exist yet.
        preset: int8, int4 or int4+. adapters: merged before; see `read_adapters`.
        calibration: a text; errors then count by what enters each matrix on it. None weighs all channels alike.
        on_stage: called with (what, done, total).

    Raises:
        GeminateError: with the cause and the way out; nothing is left behind.
    """
    _check_request(preset, out)
    located = locate(model, drafter)
    source = open_model(located.target, read_adapters(adapters))
    config = source.target_config()
    carried = _check_sources(source, config, located.drafter)
    matched = match(source.tensors, config, str(source.path))
    say = on_message or (lambda text: None)
    for reason, (count, left_out) in matched.skipped.items():
        say(f"left out {count} tensors ({left_out / 1e6:.1f} MB): {reason}")
    plans = [_planned(spec, matched.tensors[spec.name], preset, config) for spec in expected_tensors(config)]
    more = (calibration_tokens, context, threads, on_stage, on_message)
    importance = {} if calibration is None else _importance(source, config, calibration, *more)
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        counts = _write_weights(new / "model.safetensors", plans, importance, on_stage)
        _write_rest(source, new, preset, calibrated=calibration is not None)
        if carried is not None:
            _copy_drafter(carried, new / DRAFTER)
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        new.rename(out)
    except OSError as error:
        raise QuantizationError(f"cannot write {out}: {error.strerror or error}; free some space") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Quantized(
        directory=out,
        nbytes=size,
        drafter=None if carried is None else out / DRAFTER,
        drafter_note=located.drafter_note + ("" if located.drafter == carried else NOT_CARRIED),
        **counts,
    )


def _check_request(preset: Preset, out: Path) -> None:
    if preset == "mobile":
        raise ParameterError(
            "the mobile format comes from training alone; take a checkpoint that was trained for it, such as "
            "google/gemma-4-E2B-it-qat-mobile-transformers, or quantize to int8, int4+ or int4"
        )
    if preset not in TARGETS:
        raise ParameterError(f"a model can be quantized to {', '.join(TARGETS)}, not {preset!r}")
    if out.exists():
        raise QuantizationError(f"{out} exists; name a new directory, or remove it first")


def _check_sources(source: Model, config: TargetConfig, drafter: Path | None) -> Path | None:
    """Check target and drafter; the drafter that can be copied."""
    if drafter is not None:
        with drafter_errors(drafter):
            check_drafter(config, open_model(drafter))
    if any(entry.grid in ROW_FORMATS.values() for entry in source.tensors.values()):
        raise QuantizationError(
            f"{source.path} was trained for 2, 4 and 8 bits with static activations; it cannot be quantized further: "
            "serve it as it is, or quantize the bf16 checkpoint"
        )
    return None if drafter is None or is_packed_path(drafter) else drafter


def _copy_drafter(drafter: Path, to: Path) -> None:
    """Copy a drafter: its directory without folders, or its GGUF file; links are followed.

    Raises:
        OSError: it cannot be read or written.
    """
    to.mkdir()
    if drafter.is_file():
        shutil.copyfile(drafter, to / drafter.name)
        return
    for path in sorted(drafter.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in CARRIED):
            shutil.copyfile(path, to / path.name)


def _planned(spec: TensorSpec, entry: Entry, preset: Preset, config: TargetConfig) -> _Plan:
    name = f"model.{spec.name}" if canonical(entry.name) != spec.name else entry.name
    chosen = spec.role in ("matrix", "embedding", "experts", "row_table")
    if not chosen:
        return _Plan(spec=spec, entry=entry, name=name, format=None)
    fmt = tensor_format(spec, entry, preset, config)
    per_number = 8 // FORMATS[fmt].bits
    if spec.shape[-1] % per_number:
        raise QuantizationError(f"{entry.name} has {spec.shape[-1]} columns; {fmt} needs a multiple of {per_number}")
    return _Plan(spec=spec, entry=entry, name=name.removesuffix(".weight"), format=fmt)


def _importance(
    source: Model,
    config: TargetConfig,
    text: str,
    most: int,
    context: int,
    threads: int | None,
    on_stage: Stage,
    on_message: Message | None,
) -> dict[str, F32]:
    tokenizer = Tokenizer.load(source.checkpoint, source.family.dialect)
    if tokenizer is None:
        raise ParameterError("this model has no tokenizer, so it cannot read a calibration text")
    parts = windows(tokenizer.encode(text, add_bos=False), tokenizer.bos_id, context, most)
    packing: Progress = lambda name, done, total: on_stage("packing in bf16", done, total)  # noqa: E731
    store = open_weights(source, config, "bf16", progress=packing, on_message=on_message)
    return channel_importance(
        config, store, make_backend(threads), parts, lambda done, total: on_stage("calibration", done, total)
    )


def _shapes(plan: _Plan) -> dict[str, Planned]:
    """The tensors that stand for one in the new file."""
    spec, fmt = plan.spec, plan.format
    if fmt is None:
        if spec.role == "order":
            return {plan.name: Planned(dtype="I64", shape=spec.shape)}
        # bfloat16 and float16 stay what they are; a sum 1 + w needs all bits to come apart again.
        dtype = plan.entry.dtype if plan.entry.dtype in ("BF16", "F16") and not plan.entry.whole_norm else "F32"
        return {plan.name: Planned(dtype=dtype, shape=spec.shape)}
    *front, k = spec.shape
    bits, group = FORMATS[fmt].bits, FORMATS[fmt].group
    codes = Planned(dtype=CODE_TYPES[fmt], shape=(*front, k * bits // 8))
    scales = Planned(dtype="F16", shape=(*front, padded(k, group) // group))
    return {plan.name + CODES: codes, plan.name + SCALES: scales}


def _write_weights(path: Path, plans: list[_Plan], importance: Mapping[str, F32], on_stage: Stage) -> dict[str, int]:
    counts = {"exact": 0, "trained": 0, "searched": 0, "weighted": 0}
    planned: dict[str, Planned] = {}
    for plan in plans:
        planned |= _shapes(plan)
    total = sum(plan.entry.nbytes for plan in plans)
    done = 0

    def blocks() -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        nonlocal done
        for plan in plans:
            if plan.format is None:
                yield plan.name, iter([_plain(plan, planned[plan.name])])
            else:
                scales: list[U16] = []
                yield plan.name + CODES, _codes(plan, importance.get(plan.spec.name), scales, counts)
                yield plan.name + SCALES, iter(scales)
            done += plan.entry.nbytes
            on_stage("quantizing", done, total)

    write_safetensors(path, planned, blocks())
    return counts


def _plain(plan: _Plan, want: Planned) -> np.ndarray:
    if want.dtype == "I64":
        return plan.entry.map().astype(np.int64)
    if want.dtype in ("BF16", "F16"):
        return plan.entry.map()
    values = plan.entry.rows(0, plan.spec.shape[0])
    return values - np.float32(1) if plan.spec.unit_offset and plan.entry.whole_norm else values


def _codes(plan: _Plan, importance: F32 | None, scales: list[U16], counts: dict[str, int]) -> Iterator[np.ndarray]:
    """Codes of one tensor block by block; the scales are collected on the way."""
    spec, entry, fmt = plan.spec, plan.entry, plan.format
    assert fmt is not None
    k = spec.shape[-1]
    exact = passes_through(entry, fmt)
    trained = not exact and fmt == "int4" and entry.dtype == "BF16" and trained_for_int4(entry)
    way = "exact" if exact else "trained" if trained else "searched" if importance is None else "weighted"
    counts[way] += 1
    step = 1 if len(spec.shape) == 3 else max(1, BLOCK_BYTES // (4 * k))
    for start in range(0, spec.shape[0], step):
        stop = min(start + step, spec.shape[0])
        codes: I8
        if exact:
            codes, stored = entry.codes(start, stop)
            bits = stored.view(np.uint16)  # of float16: row formats are refused
        else:
            rows = entry.rows(start, stop)
            flat = rows.reshape(-1, k)
            codes, bits = recovered(flat) if trained else _searched(flat, fmt, importance)
            codes, bits = codes.reshape(*rows.shape[:-1], -1), bits.reshape(*rows.shape[:-1], -1)
        scales.append(bits)
        yield pack_codes(codes[..., :k], FORMATS[fmt].bits)


def _searched(rows: F32, fmt: WeightFormat, importance: F32 | None) -> tuple[I8, U16]:
    groups = grouped(rows)
    weight: F32 | None = None
    if importance is not None:
        flat = np.ones(groups[0].size, dtype=np.float32)
        flat[: len(importance)] = importance
        weight = flat.reshape(1, *groups.shape[1:])
    codes, scales = quantize_searched(groups, fmt, weight)
    return codes.reshape(len(rows), -1), scales.view(np.uint16)


def _write_rest(source: Model, new: Path, preset: Preset, *, calibrated: bool) -> None:
    config: dict[str, Any] = dict(source.raw)
    config.pop("quantization_config", None)
    config["quantization_config"] = {"quant_method": METHOD, "version": 1, "weights": preset, "calibrated": calibrated}
    (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = source.checkpoint.generation
    if generation:
        (new / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    source.checkpoint.write_text_side(new)
