"""What a benchmark with random weights needs of the memory, known before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from geminate import machine
from geminate.errors import ParameterError
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.tools.bench.ceilings import Ceilings
from geminate.tools.bench.random_weights import matrix_bytes, streamed_bytes
from geminate.tools.bench.shapes import block_of, load_shape
from geminate.weights.presets import Preset
from geminate.weights.specs import expected_tensors

SHARE = 0.8  # of the free memory that may be taken: the kernel kills who takes it all
MAX_ROWS = 256 + 16
OWN = 512 << 20  # the process itself, noise, scratch


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A stack of layers that fits.

    Attributes:
        layers: None for all of the shape. need: bytes. free: bytes, None where the system does not say.
    """

    layers: int | None
    need: int
    free: int | None

    @property
    def sentence(self) -> str:
        """What will be taken, for people."""
        free = "" if self.free is None else f"; {_gb(self.free)} are free, of which {100 * SHARE:.0f} % may be used"
        return f"this needs about {_gb(self.need)} of memory{free}"


def needed(config: TargetConfig, assistant: AssistantConfig | None, weights: Preset, context: int) -> int:
    """Bytes of weights, KV cache, logits and probes, and of the copies made on the way."""
    models: list[TargetConfig | AssistantConfig] = [config] if assistant is None else [config, assistant]
    stored = sum(streamed_bytes(model, weights) for model in models)
    # bf16 codes are made in two steps, each with a copy of the tensor.
    copies = 2 if weights == "bf16" else 0
    largest = max(matrix_bytes(spec, weights, model) for model in models for spec in expected_tensors(model))
    positions = context + 2 * MAX_ROWS
    cache = sum(
        4 * layer.kv_heads * layer.head_dim * (min(positions, layer.window + MAX_ROWS) if layer.window else positions)
        for layer in config.layers
        if not layer.kv_shared
    )
    logits = 2 * 4 * MAX_ROWS * config.vocab_size
    return stored + copies * largest + 2 * cache + logits + Ceilings.BYTES + OWN


def fitting(shape: str, weights: Preset, *, context: int, layers: int | None) -> Fit:
    """All layers of a shape, or as many whole blocks as fit into `SHARE` of the free memory.

    Args:
        layers: this many and no others.

    Raises:
        GeminateError: unknown shape, bad layer count, or too little memory.
    """
    free = machine.available_bytes()
    config, assistant, total = load_shape(shape, layers)
    need = needed(config, assistant, weights, context)
    if free is None or need <= SHARE * free:
        return Fit(layers=layers, need=need, free=free)
    block = block_of(config)
    for fewer in range((layers or total) - 1, 0, -1):
        if fewer % block == 0:
            less = needed(load_shape(shape, fewer)[0], assistant, weights, context)
            if less <= SHARE * free:
                if layers is None:
                    return Fit(layers=fewer, need=less, free=free)
                raise _too_large(shape, weights, need, free, f"--layers {fewer} would fit")
    raise _too_large(shape, weights, need, free, "take a smaller --shape, smaller --weights or a shorter --context")


def _too_large(shape: str, weights: Preset, need: int, free: int, way: str) -> ParameterError:
    return ParameterError(
        f"{shape} in {weights} needs about {_gb(need)} of memory, and {_gb(free)} are free, of which "
        f"{100 * SHARE:.0f} % may be used: {way}"
    )


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
