"""Energy and money of a fleet, and where it breaks even with a cloud price."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from geminate.tools.capacity.machines import Machine

DAYS = 365.0
MAX_SPARES = 64


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a user pays; all assumed.

    Attributes:
        currency: of all of them. energy_per_kwh: for electricity. pue: energy of the room against that of its machines.
        years: over which a machine is written off. operations_per_day: people and place, for the whole fleet.
        cloud_input, cloud_output: a cloud's price of a million prompt and completion tokens; None: no comparison.
    """

    currency: str = "USD"
    energy_per_kwh: float = 0.25
    pue: float = 1.0
    years: float = 4.0
    operations_per_day: float = 0.0
    cloud_input: float | None = None
    cloud_output: float | None = None


@dataclass(frozen=True, kw_only=True)
class DayTokens:
    """What a day brings."""

    requests: float
    prompt: float
    completion: float


@dataclass(frozen=True, kw_only=True)
class FleetCost:
    """What a fleet costs a day. None: not known for this machine.

    Attributes:
        kwh: energy. fixed: what is paid whatever the load, idle energy included. total: all of it.
        per_million: of prompt and completion tokens together. per_million_out: of completion tokens alone.
        cloud: what the same tokens cost there. break_even: requests a day from which the fleet is cheaper.
    """

    kwh: float | None
    fixed: float | None
    total: float | None
    per_million: float | None
    per_million_out: float | None
    cloud: float | None
    break_even: float | None


def fleet_cost(machine: Machine, count: int, utilisation: float, tokens: DayTokens, prices: Prices) -> FleetCost:
    """A fleet of ``count`` machines that are busy for ``utilisation`` of the day each."""
    cloud = cloud_cost(tokens, prices)
    energy = day_energy(machine, count, utilisation, prices)
    hardware = day_hardware(machine, count, prices)
    kwh = None if energy is None else energy[1]
    if energy is None or hardware is None:
        return FleetCost(
            kwh=kwh, fixed=None, total=None, per_million=None, per_million_out=None, cloud=cloud, break_even=None
        )
    idle, used = energy
    fixed = hardware + prices.operations_per_day + idle * prices.energy_per_kwh
    total = fixed + (used - idle) * prices.energy_per_kwh
    whole = tokens.prompt + tokens.completion
    break_even = None
    if cloud is not None and tokens.requests:
        margin = (cloud - (total - fixed)) / tokens.requests
        break_even = fixed / margin if margin > 0 else None
    return FleetCost(
        kwh=used,
        fixed=fixed,
        total=total,
        per_million=total / whole * 1e6 if whole else None,
        per_million_out=total / tokens.completion * 1e6 if tokens.completion else None,
        cloud=cloud,
        break_even=break_even,
    )


def cloud_cost(tokens: DayTokens, prices: Prices) -> float | None:
    """What the same tokens cost at the stated cloud prices."""
    if prices.cloud_input is None or prices.cloud_output is None:
        return None
    return (tokens.prompt * prices.cloud_input + tokens.completion * prices.cloud_output) / 1e6


def day_energy(machine: Machine, count: int, utilisation: float, prices: Prices) -> tuple[float, float] | None:
    """Kilowatt-hours a day of the fleet idle, and as it is used."""
    if machine.watts is None:
        return None
    idle = machine.watts if machine.idle_watts is None else machine.idle_watts
    mean = idle + utilisation * max(0.0, machine.watts - idle)
    return count * idle * 24 / 1000 * prices.pue, count * mean * 24 / 1000 * prices.pue


def day_hardware(machine: Machine, count: int, prices: Prices) -> float | None:
    """What the machines cost a day, bought or rented."""
    if machine.rent_per_hour is not None:
        return count * machine.rent_per_hour * 24
    return None if machine.price is None else count * machine.price / (prices.years * DAYS)


def with_spares(needed: int, machine_availability: float, objective: float) -> int | None:
    """Machines of which ``needed`` are up with probability ``objective``, if they fail independently; None: never."""
    for count in range(needed, needed + MAX_SPARES + 1):
        up = sum(
            comb(count, k) * machine_availability**k * (1 - machine_availability) ** (count - k)
            for k in range(needed, count + 1)
        )
        if up >= objective - 1e-12:
            return count
    return None
