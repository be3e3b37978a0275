"""Loads what is measured here: a real pair, or a shape with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from geminate.errors import GeminateError
from geminate.llm import LLM
from geminate.loading.locate import EMBEDDED
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.tools.bench.decode import BENCH80, read_prompts, run
from geminate.tools.bench.memory import fitting
from geminate.tools.bench.step import StepBench
from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.measure import Measured, kept_costs, measure_costs
from geminate.tools.capacity.models import Candidate
from geminate.tools.capacity.pass_costs import PassCosts

PROMPTS, TOKENS, LENGTH = 8, 64, 4


def measured_costs(
    model: Candidate, machine: Machine, on_part: Callable[[str], None], on_message: Callable[[str], None]
) -> PassCosts | None:
    """Costs measured here, or kept from the last time; None, with a message, where the model does not fit."""
    name = str(Path(model.name).resolve()) if Path(model.name).exists() else model.name
    key = f"{name}, {model.weights}, KV {model.kv}, {machine.kernels}, {machine.cores} threads"
    if model.shape_only:
        if not _fits(model):
            on_message(f"{model.label} does not fit into the memory that is free here: its pass costs are computed")
            return None

    def measure() -> Measured:
        on_part(f"{model.label}: loading")
        target, drafter = _pair(model, machine.cores)
        return measure_costs(target, drafter, on_part=lambda what: on_part(f"{model.label}: measuring {what}"))

    return kept_costs(key, measure, on_message)


def _fits(model: Candidate) -> bool:
    """Whether all layers of a shape fit into the memory that is free."""
    try:
        return fitting(model.name, model.weights, context=1024, layers=None).layers is None
    except GeminateError:
        return False


def _pair(model: Candidate, threads: int) -> tuple[TargetModel, DrafterModel | None]:
    if model.shape_only:
        bench = StepBench(model.name, model.weights, kv=model.kv, threads=threads)
        return bench.target, bench.drafter
    llm = _load(model, threads)
    return llm.pair.target, llm.pair.drafter


def _load(model: Candidate, threads: int | None) -> LLM:
    return LLM(None if model.name == EMBEDDED else model.name, weights=model.weights, kv=model.kv, threads=threads)


def measured_survival(model: Candidate) -> tuple[float, ...]:
    """Chance that the first 1 .. `LENGTH` draft tokens are all accepted, on prompts of bench80.

    Raises:
        GeminateError: the model cannot be loaded here.
    """
    llm = _load(model, None)
    if llm.pair.drafter is None:
        raise GeminateError(f"{model.name} has no drafter whose acceptance could be measured")
    llm.measure_costs()
    prompts = read_prompts(BENCH80, llm, None)[:: 80 // PROMPTS]
    found = run(llm.engine, prompts, [0, LENGTH], max_tokens=TOKENS, repeats=1)
    rising: list[float] = []
    for value in found["accepted_per_position"]:
        rising.append(min([float(value), *rising[-1:]]))
    return tuple(rising)
