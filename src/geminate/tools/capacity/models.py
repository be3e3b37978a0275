"""Candidate models: a published shape, the embedded pair, a directory, a GGUF file or a pulled model, in a format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from geminate.errors import ModelNotFoundError, ParameterError, shown
from geminate.families.registry import load_assistant_config, open_model
from geminate.kv.store import KVFormat
from geminate.loading.load import locate
from geminate.loading.locate import EMBEDDED
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.tools.bench.shapes import SHAPES, load_shape
from geminate.tools.bench.synthetic import conditional_rates
from geminate.tools.capacity.work import ModelWork, model_work
from geminate.weights.presets import Preset
from geminate.weights.specs import match

# Survival by draft position as published: vLLM on a DGX Spark, 26B-A4B; mlx-serve, code; mlx-serve, thinking aloud at
# temperature 1.
ACCEPTANCE: Mapping[str, tuple[tuple[float, ...], str]] = {
    "published": ((0.844, 0.599, 0.385, 0.271), "spark-vllm-docker #231"),
    "code": ((0.97, 0.81, 0.63), "mlx-serve #433, code"),
    "prose": ((0.50, 0.22, 0.09), "mlx-serve #433, thinking aloud"),
}
MEASURED = "measured"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that may be served.

    Attributes:
        name: as the user has it. config, assistant: of target and drafter; None without a drafter.
        weights: ``auto`` is what the file has, int8 for shapes. kv: format of keys and values.
        work: of its passes. shape_only: whether there are no weights to load.
        survival: chance that the first i draft tokens are all accepted; empty without a drafter.
        acceptance: where those come from. measures: whether they are to be measured here first.
    """

    name: str
    config: TargetConfig
    assistant: AssistantConfig | None
    weights: Preset
    kv: KVFormat
    work: ModelWork
    survival: tuple[float, ...]
    acceptance: str
    measures: bool = False
    shape_only: bool = False

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.name} {self.weights}" + (f", KV {self.kv}" if self.kv != "f16" else "")


def make_candidate(
    name: str, weights: Preset, kv: KVFormat, acceptance: object = "published", *, context: int | None = None
) -> Candidate:
    """A candidate by its name.

    Args:
        acceptance: a name of `ACCEPTANCE`, `MEASURED`, survival probabilities, or the path of a file that
            ``geminate bench decode --json`` wrote.
        context: tokens that prompt and completion may have together; None: the model's limit.

    Raises:
        GeminateError: no such model; bad acceptance.
    """
    entries, shape_only = None, name in SHAPES
    if name in SHAPES:
        config, assistant, _ = load_shape(name, None)
        weights = "int8" if weights == "auto" else weights
    else:
        located = locate(None if name == EMBEDDED else name, "auto")
        model = open_model(located.target)
        config = model.target_config()
        assistant = None if located.drafter is None else load_assistant_config(located.drafter)
        try:
            entries = match(model.tensors, config, str(located.target)).tensors
        except ModelNotFoundError:  # a configuration without weights says enough
            shape_only = True
            weights = "int8" if weights == "auto" else weights
    if context is not None:
        config = replace(config, max_position_embeddings=min(context, config.max_position_embeddings))
    survival, source = ((), "no drafter") if assistant is None else survival_of(acceptance)
    return Candidate(
        name=name,
        config=config,
        assistant=assistant,
        weights=weights,
        kv=kv,
        work=model_work(config, assistant, weights, entries),
        survival=survival,
        acceptance=source,
        measures=assistant is not None and acceptance == MEASURED,
        shape_only=shape_only,
    )


def survival_of(given: object) -> tuple[tuple[float, ...], str]:
    """Survival probabilities and where they come from.

    Raises:
        ParameterError: neither a known name, nor probabilities, nor a file with them.
    """
    if isinstance(given, list | tuple):
        if not all(isinstance(s, int | float) and not isinstance(s, bool) for s in given):
            raise ParameterError("acceptance must be survival probabilities such as [0.84, 0.60, 0.39]")
        values = tuple(float(s) for s in given)
        conditional_rates(list(values))
        return values, "stated"
    if given == MEASURED:
        return ACCEPTANCE["published"][0], MEASURED
    if isinstance(given, str) and given in ACCEPTANCE:
        values, source = ACCEPTANCE[given]
        return values, f"{given} ({source})"
    if isinstance(given, str) and given.endswith(".json"):
        return _from_file(Path(given)), f"measured ({given})"
    raise ParameterError(
        f"acceptance must be {', '.join(ACCEPTANCE)}, {MEASURED}, survival probabilities, or a .json file of "
        f"'geminate bench decode --json', not {shown(given)}"
    )


def _from_file(path: Path) -> tuple[float, ...]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        values = [float(s) for s in raw["accepted_per_position"]]
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParameterError(
            f"{path} has no accepted_per_position: write it with 'geminate bench decode --json'"
        ) from None
    # Later positions were tried by fewer rounds: noise may let them rise.
    kept: list[float] = []
    for value in values:
        kept.append(min([value, *kept[-1:]]))
    conditional_rates(kept)
    return tuple(kept)
