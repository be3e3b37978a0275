"""Energy, cost, break-even and spare machines."""

from __future__ import annotations

import pytest

from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.money import DayTokens, Prices, fleet_cost, with_spares

MACHINE = Machine(
    key="m", name="m", cores=4, int8_gmacs=100, bandwidth_gbs=20, memory_gb=8, watts=100, idle_watts=20, price=1460
)
PRICES = Prices(energy_per_kwh=0.5, years=4, cloud_input=1.0, cloud_output=2.0, operations_per_day=1.0)
DAY = DayTokens(requests=1000, prompt=2e6, completion=1e6)


def test_a_day_by_hand() -> None:
    cost = fleet_cost(MACHINE, 2, 0.25, DAY, PRICES)
    kwh = 2 * (20 + 0.25 * 80) * 24 / 1000
    idle = 2 * 20 * 24 / 1000
    fixed = 2 * 1460 / (4 * 365) + 1.0 + 0.5 * idle
    assert cost.kwh == pytest.approx(kwh) and cost.fixed == pytest.approx(fixed)
    assert cost.total == pytest.approx(fixed + 0.5 * (kwh - idle)) and cost.cloud == pytest.approx(4.0)
    assert cost.per_million == pytest.approx(cost.total / 3) and cost.per_million_out == pytest.approx(cost.total)


def test_at_the_break_even_both_cost_the_same() -> None:
    cost = fleet_cost(MACHINE, 2, 0.25, DAY, PRICES)
    assert cost.break_even is not None and cost.cloud is not None and cost.total is not None and cost.fixed is not None
    share = cost.break_even / DAY.requests
    assert cost.fixed + share * (cost.total - cost.fixed) == pytest.approx(share * cost.cloud)
    dear = Prices(energy_per_kwh=500, cloud_input=0.01, cloud_output=0.01)
    assert fleet_cost(MACHINE, 2, 0.25, DAY, dear).break_even is None


def test_what_is_not_known_stays_empty() -> None:
    bare = Machine(key="m", name="m", cores=4, int8_gmacs=100, bandwidth_gbs=20, memory_gb=8)
    cost = fleet_cost(bare, 1, 0.5, DAY, Prices())
    assert (cost.kwh, cost.total, cost.cloud, cost.break_even) == (None, None, None, None)
    rented = Machine(
        key="m", name="m", cores=4, int8_gmacs=1, bandwidth_gbs=1, memory_gb=8, watts=10, rent_per_hour=0.5
    )
    assert fleet_cost(rented, 2, 0.0, DAY, Prices(energy_per_kwh=0)).total == pytest.approx(24.0)


def test_spares_reach_the_availability() -> None:
    assert with_spares(3, 0.995, 0.98) == 3 and with_spares(3, 0.99, 0.999) == 4
    assert with_spares(1, 0.9, 0.9999) == 4  # 1 - 0.1 ** 4
    assert with_spares(1, 1.0, 0.999999) == 1 and with_spares(1, 0.001, 0.99) is None
