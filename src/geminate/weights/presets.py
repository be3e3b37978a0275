"""Which kernel format each tensor gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from geminate.checkpoint.entries import Entry
from geminate.checkpoint.packed import PackedEntry
from geminate.errors import ParameterError, WeightsError
from geminate.formats.table import BLOCK_FORMATS, ROW_FORMATS, WeightFormat
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.weights.specs import TensorSpec

Preset = Literal["auto", "bf16", "int8", "int4", "int4+", "mobile", "q4_k_m"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
MIXES: tuple[Preset, ...] = ("q4_k_m",)  # of files, which `auto` takes as they are; named for shapes without files
CHOSEN_ROLES = ("matrix", "embedding", "experts")  # whose format the preset decides
# More than Q4_0's 4.5 bits a weight: the quantizer considered the head worth them.
FINE_HEADS = ("Q8_0", "Q8_1", "Q8_K", "Q6_K", "Q5_0", "Q5_1", "Q5_K")


def check_preset(weights: str) -> Preset:
    """A preset by its name.

    Raises:
        ParameterError: no such preset.
    """
    for preset in PRESETS:
        if weights == preset:
            return preset
    raise ParameterError(f"weights must be one of {', '.join(PRESETS)}, not {weights!r}")


def row_scaled_preset(preset: Preset, entries: Iterable[Entry], where: str) -> Preset:
    """The preset of a target's checkpoint: ``mobile`` for one with static activations, which is used as it is stored.

    Raises:
        WeightsError: ``mobile`` of another checkpoint. ParameterError: another format of this kind, or one of `MIXES`.
    """
    if preset in MIXES:
        raise ParameterError(
            f"{preset} is a mix that files hold, and none is made here: take a GGUF file in it and leave --weights at "
            "auto, which uses it as it is stored"
        )
    if not any(entry.grid in ROW_FORMATS.values() for entry in entries):
        if preset == "mobile":
            raise WeightsError(
                f"{where} is no checkpoint for devices, and other weights become one by training only; "
                "leave --weights at auto, or take int4"
            )
        return preset
    if preset not in ("auto", "mobile"):
        raise ParameterError(
            f"{where} holds weights that were trained together with static int8 activations; in {preset} they would be "
            "another model: leave --weights at auto"
        )
    return "mobile"


def tensor_format(
    spec: TensorSpec, entry: Entry | None, preset: Preset, config: TargetConfig | AssistantConfig
) -> WeightFormat:
    """The format of a matrix, a stack of them, or a row table.

    Args:
        entry: how it is stored; None for weights that come from no file.
        preset: ``auto`` takes what is stored on a grid as it is stored, and anything else as int8; ``int4+`` is int4
            but for the matrices of `keeps_int8`. A drafter's matrices never go below int8: its acceptance would suffer,
            and it is small. ``mobile`` takes what a checkpoint for devices holds; without a file, `mobile_format`.
            ``q4_k_m`` is for weights that come from no file: `mixed_format`. Of a packed file ``auto`` takes everything
            as it was packed.
    """
    if preset == "q4_k_m":
        return "int8" if isinstance(config, AssistantConfig) else mixed_format(spec, config)
    if preset == "auto" and isinstance(entry, PackedEntry) and entry.format is not None:
        return entry.format
    if preset == "mobile" and not isinstance(config, AssistantConfig):
        if entry is not None and entry.grid is not None:
            return entry.grid
        return mobile_format(spec, config) if entry is None else "bf16"
    if spec.role == "keep":
        return "bf16"
    stored = entry.grid if preset == "auto" and entry is not None else None
    if spec.role == "row_table":
        if stored is not None and stored in BLOCK_FORMATS:
            return stored
        return "bf16" if preset == "bf16" else "int8"
    chosen: WeightFormat
    if preset == "mobile":  # a drafter
        chosen = "int8"
    elif preset == "auto":
        chosen = stored or "int8"
    elif preset == "int4+":
        chosen = "int8" if isinstance(config, AssistantConfig) or keeps_int8(spec, config) else "int4"
    else:
        chosen = preset
    fine_head = spec.role == "embedding" and entry is not None and entry.dtype in FINE_HEADS
    return "int8" if chosen == "int4" and (isinstance(config, AssistantConfig) or fine_head) else chosen


def keeps_int8(spec: TensorSpec, config: TargetConfig) -> bool:
    """Whether ``int4+`` keeps this matrix in int8; the measurements behind it are in docs/quantization.md."""
    ends = (f"layers.{config.layers[0].index}.", f"layers.{config.layers[-1].index}.")
    key_value = (".self_attn.k_proj", ".self_attn.v_proj")  # small, and every later position reads what they make
    return spec.role == "embedding" or spec.name.startswith(ends) or spec.name.endswith(key_value)


def mobile_format(spec: TensorSpec, config: TargetConfig) -> WeightFormat:
    """The published bits of E2B and E4B for devices; the projection of per-layer inputs is bf16.

    4 in attention and MLPs, but 2 in E2B's MLPs of double width, 8 in per-layer gates, 2 in embedding and head. The
    per-layer table has 4 bits in E2B and 2 in E4B.
    """
    if spec.role == "keep" or spec.name == "per_layer_model_projection":
        return "bf16"
    if spec.role == "embedding":
        return "q2r"
    narrow = min(layer.intermediate for layer in config.layers)
    wide = tuple(f"layers.{layer.index}.mlp." for layer in config.layers if layer.intermediate > narrow)
    if spec.role == "row_table":
        return "q4r" if wide else "q2r"
    if ".per_layer_" in spec.name:
        return "q8r"
    return "q2r" if wide and spec.name.startswith(wide) else "q4r"


def mixed_format(spec: TensorSpec, config: TargetConfig) -> WeightFormat:
    """llama.cpp's Q4_K_M: Q6_K in tables, and in values and down projections of some layers; elsewhere Q4_K.

    The layers are the first and last eighth and every third of the others, of those that have the matrix; per-layer
    gates are Q5_K. Down projections whose rows fill no blocks of 256 are Q5_0 or Q8_0 (int8). What files keep in BF16
    is int8, as ``auto`` takes it. Counted in published files of E2B and 26B-A4B.
    """
    if spec.role == "keep":
        return "bf16"
    if spec.role == "row_table" and spec.shape[-1] % 256:
        return "int8"
    if spec.role in ("row_table", "embedding"):
        return "q6_k"
    if spec.name == "per_layer_model_projection":
        return "int8"
    if ".per_layer_" in spec.name:
        return "q5_k"
    fine = False
    if spec.name.endswith((".down_proj", ".v_proj")):
        having = [la.index for la in config.layers if not (la.k_eq_v and spec.name.endswith(".v_proj"))]
        count, at = len(having), having.index(int(spec.name.split(".")[1]))
        fine = at < count // 8 or at >= 7 * count // 8 or (at - count // 8) % 3 == 2
    if spec.shape[-1] % 256:
        return "int8" if fine else "q5_0"
    return "q6_k" if fine else "q4_k"


def mobile_scales(spec: TensorSpec) -> tuple[float, float]:
    """Input and output scale of random weights in these formats: the head is not calibrated, all else is."""
    return (0.0, 0.0) if spec.role == "embedding" else (2.0**-5, 2.0**-4)
