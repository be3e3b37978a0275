"""What the header of a packed file says of a tensor, checked before plans and kernels trust it."""

from __future__ import annotations

from typing import Any

import numpy as np

from geminate.errors import WeightsError
from geminate.formats.table import FORMATS
from geminate.weights.packing import Layouts, row_table_planes
from geminate.weights.specs import TensorSpec


def check_header(
    spec: TensorSpec, info: dict[str, Any], arrays: dict[str, np.ndarray], layouts: Layouts, called: str
) -> None:
    """A packed tensor is what the configuration asks for: plans and kernels trust these numbers.

    Args:
        called: the file, as messages name it.

    Raises:
        WeightsError: another role, size, type or shape.
    """
    planes: dict[str, tuple[str, tuple[int, ...]]]
    if spec.role in ("vector", "scalar", "order"):
        planes = {"codes": ("<i4" if spec.role == "order" else "<f4", spec.shape)}
    else:
        (n, k), stack = spec.matrix_shape, spec.stack
        if (info["n"], info["k"], info["stack"]) != (n, k, stack):
            raise WeightsError(f"{called} has another size of {spec.name}")
        if spec.role == "row_table":
            blocks = info.get("blocks", 1)
            if not isinstance(blocks, int) or blocks < 1 or k % blocks:
                raise WeightsError(f"{called} has another number of scales of {spec.name}")
            stored = FORMATS[info["format"]].blocks
            if stored is not None and k % stored.columns:
                raise WeightsError(f"{called} has another format of {spec.name}")
            planes = row_table_planes(n, k, info["format"], blocks)
        else:
            for key in ("input_scale", "output_scale"):
                value = info.get(key, 0.0)
                if not isinstance(value, float) or not 0 <= value < np.inf:
                    raise WeightsError(f"{called} has another {key} of {spec.name}")
            planes = {p: (dtype, (stack, *shape)) for p, (dtype, shape) in layouts(info["format"]).shapes(n, k).items()}
    found = {p: arrays[spec.name if p == "codes" else f"{spec.name}#{p}"] for p in planes}
    fits = all(a.dtype == np.dtype(planes[p][0]) and a.shape == planes[p][1] for p, a in found.items())
    if info["role"] != spec.role or not fits:
        raise WeightsError(f"{called} has another kind or shape of {spec.name}")
