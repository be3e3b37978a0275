"""The pair of the demo: the largest of a list of shapes that fits into memory, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geminate import machine
from geminate.errors import ParameterError
from geminate.tools.bench.memory import SHARE, needed
from geminate.tools.bench.shapes import block_of, load_shape
from geminate.weights.presets import Preset

CONTEXT = 128  # positions that `StepBench` fills by itself


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is shown.

    Attributes:
        shape: a name of `geminate.tools.bench.shapes.SHAPES`, or a model directory. layers: of ``of_layers``.
        needed, free: bytes; ``free`` is None where the system does not say.
    """

    shape: str
    layers: int
    of_layers: int
    needed: int
    free: int | None

    @property
    def title(self) -> str:
        """The shape in words."""
        return Path(self.shape).name + (
            "" if self.layers == self.of_layers else f", {self.layers} of {self.of_layers} layers"
        )


def needed_bytes(shape: str, layers: int, weights: Preset) -> int:
    """Memory that the demo takes with so many layers."""
    target, drafter, _ = load_shape(shape, layers)
    return needed(target, drafter, weights, CONTEXT)


def choose(shape: str, weights: Preset, free: int | None = None) -> Choice:
    """The shape, with as many layers as fit into `SHARE` of the free memory.

    Args:
        free: bytes; None asks the system.

    Raises:
        ParameterError: no such shape, one without a drafter, or not even its smallest stack of layers fits.
    """
    free = machine.available_bytes() if free is None else free
    config, drafter, total = load_shape(shape, None)
    if drafter is None:
        raise ParameterError(f"{shape} has no drafter, so there is nothing to show")
    block = block_of(config)
    for layers in (total, *range(total - block, 0, -block)):
        needed = needed_bytes(shape, layers, weights)
        if free is None or needed <= SHARE * free:
            return Choice(shape=shape, layers=layers, of_layers=total, needed=needed, free=free)
    raise ParameterError(
        f"{shape} takes {needed / 1e9:.1f} GB even with {layers} layers, more than {SHARE:.0%} of the "
        f"{(free or 0) / 1e9:.1f} GB that are free; close something, or choose a smaller --shape"
    )
