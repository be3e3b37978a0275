"""Which kernel format each tensor gets."""

from __future__ import annotations

from typing import Literal, get_args

from geminate.ops.packed import WeightFormat
from geminate.weights.entries import Entry
from geminate.weights.names import TensorSpec

Preset = Literal["auto", "bf16", "int8", "int4"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
# More than Q4_0's 4.5 bits a weight: whoever quantized the file held a head worth them.
FINE_HEADS = ("Q8_0", "Q8_1", "Q8_K", "Q6_K", "Q5_0", "Q5_1", "Q5_K")


def tensor_format(spec: TensorSpec, entry: Entry, preset: Preset, *, drafter: bool) -> WeightFormat:
    """The format of a matrix.

    Args:
        preset: ``auto`` takes what is stored on a grid as it is stored, and anything else as int8.
        drafter: a drafter's matrices never go below int8; its guesses would suffer, and it is small.
    """
    if spec.role == "keep":
        return "bf16"
    if spec.role == "row_table":
        return "bf16" if preset == "bf16" else "int8"
    if preset == "auto":
        chosen: WeightFormat = entry.grid or "int8"
    else:
        chosen = preset
    if chosen == "int4" and (drafter or (spec.role == "embedding" and entry.dtype in FINE_HEADS)):
        return "int8"
    return chosen
