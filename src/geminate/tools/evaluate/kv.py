"""What a KV format costs: the same weights with keys and values in it, beside float16, on one text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geminate.backends.select import make_backend
from geminate.checkpoint.adapter import read_adapters
from geminate.errors import ParameterError
from geminate.families.registry import open_model
from geminate.kv.store import KVFormat
from geminate.loading.compile import compile_target
from geminate.loading.load import locate
from geminate.tools.evaluate.run import OnRows, text_windows
from geminate.tools.evaluate.score import CHUNK, Score, compare
from geminate.weights.cache import Message
from geminate.weights.opening import open_weights
from geminate.weights.packing import Progress
from geminate.weights.presets import Preset


@dataclass(frozen=True, kw_only=True)
class KVScore:
    """One weight format: its perplexity with float16 keys and values, and the other KV format's score against those."""

    preset: Preset
    perplexity_f16: float
    score: Score

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"perplexity_f16": round(self.perplexity_f16, 4), **self.score.as_dict()}


@dataclass(frozen=True, kw_only=True)
class KVEvaluation:
    """What `evaluate_kv` found.

    Attributes:
        bytes_f16, bytes_kv: of the KV cache of one window, in either format.
    """

    model: Path
    kv: KVFormat
    positions: int
    windows: int
    bytes_f16: int
    bytes_kv: int
    scores: list[KVScore]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model.name,
            "kv": self.kv,
            "positions": self.positions,
            "windows": self.windows,
            "kv_bytes": {"f16": self.bytes_f16, self.kv: self.bytes_kv},
            "weights": {each.preset: each.as_dict() for each in self.scores},
        }


def evaluate_kv(
    model: str | Path | None,
    text: str,
    presets: Sequence[Preset],
    kv: KVFormat,
    *,
    adapters: Sequence[str | Path] = (),
    context: int = 512,
    max_tokens: int | None = None,
    threads: int | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
    on_message: Message | None = None,
    on_rows: OnRows = lambda done, total: None,
) -> KVEvaluation:
    """Score a KV format with some weight formats; passes of `CHUNK` rows read what earlier ones have stored.

    Args:
        presets: weight formats; each is compared with itself, keys and values in float16.
        kv: another format than ``f16``.
        Others as in `geminate.tools.evaluate.run.evaluate`.

    Raises:
        GeminateError: with the cause and the way out.
    """
    if kv == "f16":
        raise ParameterError("f16 is what KV formats are compared with; name another, such as int8")
    if len(set(presets)) < len(presets):
        raise ParameterError("a format is named twice")
    source = open_model(locate(model, None).target, read_adapters(adapters))
    config = source.target_config()
    parts = text_windows(source, config, config, text, context, max_tokens)
    backend = make_backend(threads)
    scores: list[KVScore] = []
    for preset in presets:
        store = open_weights(source, config, preset, use_cache=use_cache, progress=progress, on_message=on_message)
        compiled = functools.partial(compile_target, config, store, backend, max_rows=CHUNK)
        plain, other = compiled(), compiled(kv=kv)
        perplexity, found = compare(plain, {kv: other}, parts, on_rows)
        scores.append(KVScore(preset=preset, perplexity_f16=perplexity, score=found[kv]))
    longest = max(len(part) for part in parts)
    return KVEvaluation(
        model=source.path,
        kv=kv,
        windows=len(parts),
        positions=sum(len(part) - 1 for part in parts),
        bytes_f16=plain.kv.nbytes(longest),
        bytes_kv=other.kv.nbytes(longest),
        scores=scores,
    )
