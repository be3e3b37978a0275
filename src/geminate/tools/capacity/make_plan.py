"""From choices to a `CapacityPlan`: finds models and machines, gets their pass costs, sizes every pair of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from geminate.errors import ParameterError
from geminate.kv.store import check_kv
from geminate.tools.capacity.machines import HERE, Machine, known_machines, machine_named, make_machine
from geminate.tools.capacity.measured_pair import measured_costs, measured_survival
from geminate.tools.capacity.models import Candidate, make_candidate
from geminate.tools.capacity.pass_costs import PassCosts
from geminate.tools.capacity.plan_file import NO_RATE, ModelChoice, PlanFile
from geminate.tools.capacity.report import CapacityPlan
from geminate.tools.capacity.roofline import roofline
from geminate.tools.capacity.sizing import Effort, Sizer, Sizing
from geminate.weights.presets import check_preset

MODES = ("off", "auto")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How to make a plan.

    Attributes:
        effort: how much is simulated. seed: of arrivals and lengths.
        measure: measure pass costs on this machine; else its memory and int8 rate are probed, and costs computed.
        threads: of this machine; None: its physical cores.
        on_part: called with (what, done, all) as the work goes on; what it raises ends it.
        on_message: called with what a user should know.
    """

    effort: Effort = field(default_factory=Effort)
    seed: int = 0
    measure: bool = True
    threads: int | None = None
    on_part: Callable[[str, int, int], None] = lambda what, done, total: None
    on_message: Callable[[str], None] = lambda text: None


def make_plan(asked: PlanFile, choices: Choices, here: Callable[[int | None], Machine]) -> CapacityPlan:
    """Everything that was asked.

    Args:
        here: probes this machine, with so many threads.

    Raises:
        ParameterError: no load, or a machine or model that does not exist.
        GeminateError: a model that cannot be read or measured.
    """
    workload = asked.workload
    if workload is None:
        raise ParameterError(NO_RATE)
    models = [_candidate(choice) for choice in asked.models]
    machines = _machines(asked.machines or (HERE,), choices, here)
    pairs = [(model, machine) for model in models for machine in machines]
    total = len(pairs) * len(MODES)
    rows: list[Sizing] = []
    for model, machine in pairs:
        costs = _costs(model, machine, choices, lambda what: choices.on_part(what, len(rows), total))
        chosen = _with_measured_acceptance(model, machine, choices)
        for speculation in MODES if chosen.survival else MODES[:1]:
            label = f"{chosen.label}, {machine.key}, {speculation}"
            sizer = Sizer(
                workload,
                asked.objectives,
                asked.prices,
                limits=asked.limits,
                effort=choices.effort,
                seed=choices.seed,
                on_run=partial(_part_of, choices, label, len(rows), total),
            )
            rows.append(sizer.size(chosen, machine, costs, speculation))
    return CapacityPlan(
        workload=workload, objectives=asked.objectives, prices=asked.prices, rows=rows, seed=choices.seed
    )


def _part_of(choices: Choices, label: str, done: int, total: int, what: str) -> None:
    choices.on_part(f"{label}: {what}", done, total)


def _candidate(choice: ModelChoice) -> Candidate:
    return make_candidate(
        choice.name, check_preset(choice.weights), check_kv(choice.kv), choice.acceptance, context=choice.context
    )


def _machines(
    asked: Sequence[str | Mapping[str, Any]], choices: Choices, here: Callable[[int | None], Machine]
) -> list[Machine]:
    made: list[Machine] = []
    for one in asked:
        key = one if isinstance(one, str) else str(one["key"])
        changes = {} if isinstance(one, str) else {name: value for name, value in one.items() if name != "key"}
        if key == HERE:
            base = here(choices.threads)
        elif key in known_machines() or not changes:
            base = machine_named(key)
        else:
            made.append(make_machine({"key": key, **changes}, f"machine {key}"))
            continue
        made.append(_changed(base, changes) if changes else base)
    twice = next((m.key for at, m in enumerate(made) if m.key in [other.key for other in made[:at]]), None)
    if twice is not None:
        raise ParameterError(f"machine {twice} is named twice")
    return made


def _changed(machine: Machine, changes: Mapping[str, Any]) -> Machine:
    """A known machine with some fields replaced, such as its price."""
    kept = {field.name: getattr(machine, field.name) for field in fields(machine)}
    kept = {name: value for name, value in kept.items() if value is not None}
    if {"cores", "ghz", "int8_per_cycle"} & set(changes):
        kept.pop("int8_gmacs")
    return make_machine({**kept, **changes}, f"machine {machine.key}")


def _costs(model: Candidate, machine: Machine, choices: Choices, on_part: Callable[[str], None]) -> PassCosts:
    if machine.is_here and choices.measure:
        made = measured_costs(model, machine, on_part, choices.on_message)
        if made is not None:
            return made
    return roofline(model.work, machine, model.kv, probed=machine.is_here)


def _with_measured_acceptance(model: Candidate, machine: Machine, choices: Choices) -> Candidate:
    """The candidate with acceptance measured here, where that was asked for."""
    if not model.measures:
        return model
    if model.shape_only:
        raise ParameterError(
            f"acceptance of {model.name} cannot be measured: a shape has no weights; name a model, or state it"
        )
    choices.on_message(f"measuring the acceptance of {model.name} on prompts of bench80")
    survival = measured_survival(model)
    return replace(model, survival=survival, acceptance="measured here, prompts of bench80", measures=False)
