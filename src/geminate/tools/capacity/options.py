"""What the command line can say of a plan, instead of a plan file or on top of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from geminate.errors import ParameterError
from geminate.tools.capacity.machines import HERE
from geminate.tools.capacity.plan_file import MAX_LOAD, MAX_TOKENS, ModelChoice, PlanFile, curve_of
from geminate.tools.capacity.traffic_log import read_log
from geminate.tools.capacity.workload import CURVES, Lengths, Workload
from geminate.weights.presets import check_preset

DEFAULT_MODEL = ModelChoice(name="gemma-4-E2B")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Load, models, machines and objectives; None and () leave what the plan file says.

    Raises:
        ParameterError: a value outside its range.
    """

    requests_per_day: float | None = field(
        default=None, metadata={"help": "Offered load; what a token costs depends on it most.", "empty": "FILE's"}
    )
    curve: str | None = field(
        default=None, metadata={"help": f"Load over the day: {', '.join(CURVES)}.", "empty": "flat"}
    )
    prompt: int | None = field(
        default=None, metadata={"help": "Tokens of every prompt.", "empty": "median 300, p95 1,200"}
    )
    completion: int | None = field(
        default=None, metadata={"help": "Tokens of every completion.", "empty": "median 150, p95 500"}
    )
    log: str | None = field(
        default=None,
        metadata={"help": "Take load and lengths from this request or audit log (JSON lines).", "empty": "FILE's"},
    )
    models: Sequence[str] = field(
        default=(),
        metadata={
            "help": "Shape, directory, GGUF file or pulled model; repeatable.",
            "flags": ("--model", "-m"),
            "empty": "gemma-4-E2B",
        },
    )
    weights: str = field(default="int4", metadata={"help": "Weight format of --model."})
    acceptance: str | None = field(
        default=None,
        metadata={
            "help": "Of draft tokens: published, code, prose, measured, s_1,s_2,.. or JSON of 'geminate bench decode'.",
            "empty": "published",
        },
    )
    machines: Sequence[str] = field(
        default=(),
        metadata={
            "help": f"{HERE}, or a machine of --list-machines; repeatable.",
            "flags": ("--machine",),
            "empty": HERE,
        },
    )
    first_token: float | None = field(
        default=None, metadata={"help": "Objective: seconds to the first token, 95th percentile.", "empty": "5"}
    )
    tokens_per_s: float | None = field(
        default=None, metadata={"help": "Objective: tokens a second of a stream, for 95 % of them.", "empty": "6"}
    )

    def __post_init__(self) -> None:
        check_preset(self.weights)
        for name in ("requests_per_day", "first_token", "tokens_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= MAX_LOAD:
                raise ParameterError(f"{name} must be above 0 and at most {MAX_LOAD:g}, not {value:g}")
        for name in ("prompt", "completion"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_TOKENS:
                raise ParameterError(f"{name} must be 1 to {MAX_TOKENS}, not {value}")

    def applied(self, asked: PlanFile) -> PlanFile:
        """The plan file with these in the place of what it says.

        Raises:
            ParameterError: options that contradict each other or the file; a log or curve that is none.
        """
        wanted = asked.objectives
        wanted = replace(
            wanted,
            first_token_p95_s=self.first_token or wanted.first_token_p95_s,
            tokens_per_s=self.tokens_per_s or wanted.tokens_per_s,
        )
        models = asked.models
        if self.models:
            models = tuple(ModelChoice(name=name, weights=self.weights) for name in self.models)
        models = models or (replace(DEFAULT_MODEL, weights=self.weights),)
        if self.acceptance is not None:
            models = tuple(replace(one, acceptance=_numbers(self.acceptance)) for one in models)
        machines = tuple(self.machines) or asked.machines
        return replace(asked, workload=self._workload(asked), objectives=wanted, models=models, machines=machines)

    def _workload(self, asked: PlanFile) -> Workload | None:
        workload = asked.workload if self.log is None else read_log(Path(self.log))
        if self.requests_per_day is not None:
            workload = replace(workload or Workload(requests_per_day=1.0), requests_per_day=self.requests_per_day)
        if workload is None:
            return None
        if workload.observed and (self.prompt is not None or self.completion is not None):
            raise ParameterError("a log says how long requests are: leave out --prompt and --completion")
        if self.prompt is not None:
            workload = replace(workload, prompt=Lengths(median=self.prompt, p95=self.prompt))
        if self.completion is not None:
            same = Lengths(median=self.completion, p95=self.completion)
            workload = replace(workload, completion=same, max_tokens=self.completion)
        return workload if self.curve is None else replace(workload, curve=curve_of(self.curve))


def _numbers(text: str) -> object:
    """Survival probabilities, or the text itself, for `models.survival_of` to know."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text
