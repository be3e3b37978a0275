"""`geminate eval` from a model's name to scores: every format beside bf16 on one text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geminate.arrays import I32
from geminate.backends.select import make_backend
from geminate.checkpoint.adapter import read_adapters
from geminate.errors import ParameterError, TokenizerError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.compile import compile_target
from geminate.loading.load import locate
from geminate.plan.config import TargetConfig
from geminate.runtime.target import TargetModel
from geminate.text.tokenizer import Tokenizer
from geminate.text.windows import windows
from geminate.tools.evaluate.score import CHUNK, Score, compare
from geminate.tools.evaluate.sensitivity import GroupCost, by_group
from geminate.weights.cache import Message
from geminate.weights.opening import open_weights
from geminate.weights.packing import Progress
from geminate.weights.presets import Preset
from geminate.weights.store import WeightStore

OnRows = Callable[[int, int], None]  # positions done, total positions


@dataclass(frozen=True, kw_only=True)
class FormatScore:
    """One format: its score, the bytes that passes stream, and how many of them in which kernel format."""

    preset: Preset
    streamed_bytes: int
    bytes_by_format: dict[str, int]
    score: Score

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"streamed_bytes": self.streamed_bytes, "bytes_by_format": self.bytes_by_format, **self.score.as_dict()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found. ``by_tensor`` is None unless asked for."""

    model: Path
    reference: Path
    positions: int
    windows: int
    perplexity_bf16: float
    bytes_bf16: int
    formats: list[FormatScore]
    by_tensor: list[GroupCost] | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        body: dict[str, Any] = {
            "model": self.model.name, "reference": self.reference.name,
            "positions": self.positions, "windows": self.windows,
            "bf16": {"perplexity": round(self.perplexity_bf16, 4), "streamed_bytes": self.bytes_bf16},
            "formats": {each.preset: each.as_dict() for each in self.formats},
        }  # fmt: skip
        if self.by_tensor is not None:
            body["by_tensor"] = [each.as_dict() for each in self.by_tensor]
        return body


def evaluate(
    model: str | Path | None,
    text: str,
    presets: Sequence[Preset],
    *,
    adapters: Sequence[str | Path] = (),
    reference: str | Path | None = None,
    context: int = 512,
    max_tokens: int | None = None,
    by_tensor: Preset | None = None,
    threads: int | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
    on_message: Message | None = None,
    on_rows: OnRows = lambda done, total: None,
) -> Evaluation:
    """Score formats of a target on a text; no drafter is involved.

    Args:
        model: as for `geminate.LLM`. text: plain text, cut into windows of ``context`` tokens, bos included.
        presets: formats to compare with bf16; none of them is ``bf16``. adapters: merged into the model.
        reference: the model whose bf16 weights all are compared with, and whose tokenizer reads the text, or None.
        by_tensor: a format whose cost is also measured by groups of tensors.
        progress, on_message: as for `load_pair`. on_rows: called with (positions done, total positions).

    Raises:
        GeminateError: with the cause and the way out.
    """
    _check(presets, reference, by_tensor)
    source = open_model(locate(model, None).target, read_adapters(adapters))
    original = source if reference is None else open_model(locate(reference, None).target)
    config, original_config = source.target_config(), original.target_config()
    parts = text_windows(original, config, original_config, text, context, max_tokens)
    open_any = functools.partial(open_weights, use_cache=use_cache, progress=progress, on_message=on_message)
    open_store = functools.partial(open_any, source, config)
    backend = make_backend(threads)
    stores: dict[str, WeightStore] = {"bf16": open_any(original, original_config, "bf16")}
    stores |= {preset: open_store(preset) for preset in presets}

    others: dict[str, TargetModel] = {
        preset: compile_target(config, stores[preset], backend, max_rows=CHUNK) for preset in presets
    }
    exact = compile_target(original_config, stores["bf16"], backend, max_rows=CHUNK)
    perplexity, scores = compare(exact, others, parts, on_rows)
    groups = None
    if by_tensor is not None:
        stores |= {preset: open_store(preset) for preset in ("int8", by_tensor) if preset not in stores}
        groups = by_group(
            config, {n: stores[n] for n in ("bf16", "int8", by_tensor)}, by_tensor, backend, parts, on_rows
        )
    return Evaluation(
        model=source.path,
        reference=original.path,
        windows=len(parts),
        positions=sum(len(part) - 1 for part in parts),
        perplexity_bf16=perplexity,
        bytes_bf16=_streamed(stores["bf16"]),
        by_tensor=groups,
        formats=[_format_score(preset, stores[preset], scores[preset]) for preset in presets],
    )


def _format_score(preset: Preset, store: WeightStore, score: Score) -> FormatScore:
    by_format = {str(fmt): size for fmt, size in store.bytes_by_format().items()}
    return FormatScore(preset=preset, streamed_bytes=_streamed(store), score=score, bytes_by_format=by_format)


def _check(presets: Sequence[Preset], reference: str | Path | None, by_tensor: Preset | None) -> None:
    if not presets:
        raise ParameterError("name at least one format to compare with bf16")
    if "bf16" in presets or by_tensor == "bf16":
        raise ParameterError("bf16 is what the others are compared with; name int8, int4 or int4+")
    if len(set(presets)) < len(presets):
        raise ParameterError("a format is named twice")
    if reference is not None and by_tensor is not None:
        raise ParameterError("--by-tensor compares within one model: leave out the reference")


def text_windows(
    original: Model,
    config: TargetConfig,
    original_config: TargetConfig,
    text: str,
    context: int,
    max_tokens: int | None,
) -> list[I32]:
    """The text as windows of token ids, each within both models' context."""
    if original_config.vocab_size != config.vocab_size:
        raise ParameterError(
            f"the reference has {original_config.vocab_size} tokens and the model {config.vocab_size}: "
            "a quantized copy is compared with the model it was made from"
        )
    tokenizer = Tokenizer.load(original.checkpoint, original.family.dialect)
    if tokenizer is None:
        raise TokenizerError("this model has no tokenizer, so no text can be scored")
    limit = min(config.max_position_embeddings, original_config.max_position_embeddings)
    if context > limit:
        raise ParameterError(f"windows of {context} tokens: this model's context is {limit}")
    return windows(tokenizer.encode(text, add_bos=False), tokenizer.bos_id, context, max_tokens)


def _streamed(store: WeightStore) -> int:
    return sum(store.bytes_by_format().values())
