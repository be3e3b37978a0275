"""`geminate train export`: a drafter as one GGUF file, for llama.cpp and for `--drafter`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from geminate.arrays import F32
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.gguf_writer import BLOCK, GgufPlan, StoredType, tokenizer_metadata, write_gguf
from geminate.errors import ConfigError, ParameterError, QuantizationError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.load import locate
from geminate.loading.locate import locate_model
from geminate.loading.pairing import RECORD
from geminate.runtime.compatibility import check_fit
from geminate.weights.specs import TensorSpec, expected_tensors, match

ExportType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
EXPORT_TYPES: tuple[ExportType, ...] = get_args(ExportType)
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # general.file_type, llama.cpp's llama_ftype
KEY = f"{RECORD}.record"  # metadata: what `geminate train drafter` has recorded, as JSON


def export_drafter(drafter: str | Path, target: str | Path | None, out: Path, kind: str = "f16") -> int:
    """Write a drafter as a GGUF file; matrices whose rows are no whole blocks stay float16.

    Args:
        drafter: directory, GGUF file or hub id. target: the model that it drafts for, whose tokenizer goes into the
            file; None is the embedded target.
        kind: type of the matrices, see `EXPORT_TYPES`; norms, scales and centroids are not rounded below float16.

    Returns:
        Bytes written.

    Raises:
        GeminateError: with the cause and the way out; no file is left then.
    """
    if kind not in EXPORT_TYPES:
        raise ParameterError(f"--type must be one of {', '.join(EXPORT_TYPES)}, not {kind!r}")
    if out.suffix != ".gguf":
        raise ParameterError(f"--out must end in .gguf, not {out.name!r}: programs know these files by it")
    if out.exists():
        raise QuantizationError(f"{out} exists; name another file, or remove it first")
    source = open_model(locate_model(drafter))
    if not source.is_drafter or source.family.drafter is None or source.family.drafter.gguf is None:
        raise ConfigError(f"{drafter} is no drafter that GGUF has an architecture for")
    config, model = source.drafter_config(), open_model(locate(target, None).target)
    check_fit(model.target_config(), config)
    made = source.family.drafter.gguf(config)
    found = match(source.tensors, config, str(source.path)).tensors
    plans = [_extra(name, values) for name, values in made.extra.items()]
    plans += [_plan(spec, found[spec.name], made.names[spec.name], kind) for spec in expected_tensors(config)]
    metadata = {**_general(source, kind), **made.metadata, **tokenizer_metadata(model.checkpoint)}
    write_gguf(out, made.architecture, metadata, plans)
    return out.stat().st_size


def _general(source: Model, kind: str) -> dict[str, Any]:
    record = source.raw.get(RECORD)
    own = {KEY: json.dumps(record)} if isinstance(record, dict) else {}
    return {"general.name": source.checkpoint.name, "general.file_type": FILE_TYPES[kind], **own}


def _extra(name: str, values: F32) -> GgufPlan:
    return GgufPlan(name=name, shape=values.shape, stored="F32", values=lambda: values)


def _plan(spec: TensorSpec, entry: Entry, name: str, kind: str) -> GgufPlan:
    stored: StoredType
    if spec.role == "order":
        return GgufPlan(name=name, shape=spec.shape, stored="I32", values=lambda: np.asarray(entry.map()))
    if spec.role in ("vector", "scalar"):
        stored = "F32"
    else:
        wanted: dict[str, StoredType] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
        stored = wanted[kind]
        if stored in ("Q8_0", "Q4_0") and (spec.role == "keep" or spec.shape[-1] % BLOCK):
            stored = "F16"
    return GgufPlan(name=name, shape=spec.shape, stored=stored, values=functools.partial(_values, entry, spec.shape))


def _values(entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
    if not entry.shape:  # a scalar without axes
        return np.asarray(entry.map(), dtype=np.float32).reshape(shape)
    return entry.rows(0, shape[0])
