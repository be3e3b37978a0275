"""The result of a plan as data: every number a `Figure`, for JSON, tables and the HTML report alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geminate import __version__
from geminate.tools.capacity.figures import Figure, Kind, assumed, computed
from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.money import Prices
from geminate.tools.capacity.sizing import Objectives, Sizing
from geminate.tools.capacity.workload import DAY_S, Workload

DATA = (
    "no data leaves the machines: prompts, completions and the KV cache stay in the memory of the fleet, and "
    "this plan was computed here without the network"
)
COLUMNS: tuple[tuple[str, str], ...] = (
    ("memory", "memory GB"),
    ("first_token_p50", "first token p50 s"),
    ("first_token_p95", "first token p95 s"),
    ("stream_rate", "tokens/s a stream"),
    ("streams", "streams at once"),
    ("capacity", "requests/day a machine"),
    ("utilisation", "utilisation %"),
    ("machines", "machines"),
    ("with_spares", "with spares"),
    ("energy", "kWh/day"),
    ("cost", "cost/day"),
    ("per_million", "per M tokens"),
)
"""Figures of a row that tables show, with their headings."""


@dataclass(frozen=True, kw_only=True)
class CapacityPlan:
    """Everything that was asked and found.

    Attributes:
        rows: a model on a machine each, speculation off and on side by side.
    """

    workload: Workload
    objectives: Objectives
    prices: Prices
    rows: Sequence[Sizing]
    seed: int

    @property
    def possible(self) -> list[Sizing]:
        """Rows that meet the objectives."""
        return [row for row in self.rows if row.fits]

    @property
    def cheapest(self) -> Sizing | None:
        """Of the rows that meet the objectives the one that costs least a day; the fewest machines without prices."""
        return min(self.possible, key=_price, default=None)

    @property
    def nearest(self) -> Sizing:
        """Of rows that do not meet the objectives the one that misses them least."""
        return min((row for row in self.rows if not row.fits), key=lambda row: row.excess)


def _price(row: Sizing) -> tuple[float, int, float]:
    total = None if row.cost is None else row.cost.total
    return (total if total is not None else float("inf"), row.with_spares, -row.capacity_rate)


def figures(row: Sizing, workload: Workload, prices: Prices) -> dict[str, Figure]:
    """The figures of a row, under stable names."""
    per_day = row.capacity_rate / workload.peak_factor * DAY_S
    made = {
        "memory": computed(row.memory.total / 1e9, "GB"),
        "memory_weights": computed(row.memory.weights / 1e9, "GB"),
        "memory_kv": computed(row.memory.kv / 1e9, "GB"),
        "row_ms": Figure(value=row.costs.whole[0][1] * 1e3, unit="ms", kind=row.costs.kind),
        "prompt_rate": _prompt_rate(row),
        "acceptance_length": computed(row.peak.acceptance_length if row.peak else None, "tokens a round"),
        "idle_first_token_p95": computed(row.idle.first_token(0.95) if row.idle else None, "s"),
        "idle_stream_rate": computed(row.idle.stream_rate(0.5) if row.idle else None, "tokens/s"),
        "streams": computed(row.streams_at_once if row.streams else None, ""),
        "capacity": computed(per_day if row.saturation_rate else None, "requests/day"),
        "saturation": computed(row.saturation_rate or None, "requests/s"),
        "machines": computed(row.machines or None, ""),
        "with_spares": computed(row.with_spares or None, ""),
        "utilisation": computed(100 * row.utilisation if row.machines else None, "%"),
    }
    peak = row.peak
    shared = peak is not None and peak.prompt_tokens > 0
    made |= {
        "first_token_p50": computed(peak.first_token(0.5) if peak else None, "s"),
        "first_token_p95": computed(peak.first_token(0.95) if peak else None, "s"),
        "stream_rate": computed(peak.stream_rate(0.5) if peak else None, "tokens/s"),
        "stream_rate_p5": computed(peak.stream_rate(0.05) if peak else None, "tokens/s"),
        "reused": computed(100 * peak.reused / peak.prompt_tokens if peak and shared else None, "%"),
        "peak_running": computed(peak.most_running if peak else None, ""),
        "too_long": computed(100 * peak.too_long / len(peak.served) if peak and peak.served else None, "%"),
    }
    cost, unit = row.cost, prices.currency
    made |= {
        "energy": computed(cost.kwh if cost else None, "kWh/day"),
        "cost": computed(cost.total if cost else None, f"{unit}/day"),
        "per_million": computed(cost.per_million if cost else None, f"{unit}/M tokens"),
        "per_million_out": computed(cost.per_million_out if cost else None, f"{unit}/M completion tokens"),
        "cloud": computed(cost.cloud if cost else None, f"{unit}/day"),
        "break_even": computed(cost.break_even if cost else None, "requests/day"),
    }
    return made


def _prompt_rate(row: Sizing) -> Figure:
    """Prompt tokens a second of an otherwise idle machine, in the largest pass that was timed."""
    rows, seconds = max((knot for knot in row.costs.body if knot[0] <= 256), default=row.costs.body[-1])
    return Figure(value=rows / seconds, unit="tokens/s", kind=row.costs.kind)


def machine_figures(machine: Machine) -> dict[str, Figure]:
    """A machine's figures: measured here, else taken on trust."""
    kind: Kind = "measured" if machine.is_here else "assumed"
    made = {
        "cores": Figure(value=machine.cores, unit="", kind=kind),
        "int8": Figure(value=machine.int8_gmacs, unit="G multiply-accumulates/s", kind=kind),
        "bandwidth": Figure(value=machine.bandwidth_gbs, unit="GB/s", kind=kind),
        "memory": Figure(value=machine.memory_gb, unit="GB", kind=kind),
        "watts": assumed(machine.watts, "W"),
        "idle_watts": assumed(machine.idle_watts, "W"),
        "price": assumed(machine.price, ""),
    }
    if machine.rent_per_hour is not None:
        made["rent_per_hour"] = assumed(machine.rent_per_hour, "")
    return made


def row_json(row: Sizing, plan: CapacityPlan) -> dict[str, Any]:
    """A row for JSON."""
    return {
        "model": row.candidate.name,
        "weights": row.candidate.weights,
        "kv": row.candidate.kv,
        "machine": row.machine.key,
        "machine_name": row.machine.name,
        "machine_source": row.machine.source,
        "speculation": row.speculation,
        "acceptance": {"survival": list(row.candidate.survival), "source": row.candidate.acceptance},
        "fits": row.fits,
        "constraint": row.constraint or None,
        "why": row.broken or None,
        "pass_costs": {"kind": row.costs.kind, "basis": row.costs.basis, "error": row.costs.error},
        "figures": {name: f.as_dict() for name, f in figures(row, plan.workload, plan.prices).items()},
        "machine_figures": {name: f.as_dict() for name, f in machine_figures(row.machine).items()},
        "streams": [
            {"clients": count, "tokens_per_s_p5": round(rate, 3), "tokens_per_s_all": round(total, 3)}
            for count, rate, total in row.streams
        ],
        "sensitivity": [
            {"change": one.what, "first_token_p95_s": round(one.first_token_p95_s, 4),
             "tokens_per_s_p5": round(one.tokens_per_s, 3), "utilisation": round(one.utilisation, 3),
             "refused": one.refused}
            for one in row.changes
        ],
    }  # fmt: skip


def plan_json(plan: CapacityPlan) -> dict[str, Any]:
    """The whole plan for JSON; numbers outside figures are computed, unless they stand under ``assumed``."""
    workload, wanted, prices = plan.workload, plan.objectives, plan.prices
    best = plan.cheapest
    return {
        "plan": __version__,
        "seed": plan.seed,
        "workload": {
            "source": workload.source,
            "requests_per_day": round(workload.requests_per_day, 2),
            "busiest_hour_per_s": round(workload.peak_rate, 5),
            "peak_factor": round(workload.peak_factor, 3),
            "max_tokens": workload.limit(),
        },
        "assumed": {
            "first_token_p95_s": wanted.first_token_p95_s, "tokens_per_s": wanted.tokens_per_s,
            "availability": wanted.availability, "machine_availability": wanted.machine_availability,
            "currency": prices.currency, "energy_per_kwh": prices.energy_per_kwh, "pue": prices.pue,
            "years": prices.years, "operations_per_day": prices.operations_per_day,
            "cloud_input": prices.cloud_input, "cloud_output": prices.cloud_output,
        },
        "rows": [row_json(row, plan) for row in plan.rows],
        "cheapest": None if best is None else {"model": best.candidate.name, "weights": best.candidate.weights,
                                               "machine": best.machine.key, "speculation": best.speculation},
        "data": DATA,
    }  # fmt: skip
