"""Machines: the committed table of public specifications, and those that a user describes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from geminate.errors import ParameterError, kind_of, shown

TABLE = Path(__file__).parents[2] / "assets" / "capacity" / "machines.toml"
HERE = "here"
KERNELS = ("avx512", "avxvnni", "avx2", "portable")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine.

    Attributes:
        key: its name in the table, or what the user calls it; `HERE` is this one.
        cores: physical ones that compute. int8_gmacs: 10^9 int8 multiply-accumulates a second of all of them.
        ghz: their clock, which the engine's own time goes by.
        kernels: one of `KERNELS`.
        bandwidth_gbs: of its memory, 10^9 bytes a second as specified; of this machine as measured.
        memory_gb: 10^9 bytes. watts, idle_watts: under load and idle.
        price: to buy it. rent_per_hour: to rent it instead.
        source: where the specification stands.
    """

    key: str
    name: str
    cores: int
    int8_gmacs: float
    bandwidth_gbs: float
    memory_gb: float
    ghz: float = 3.0
    kernels: str = "avx512"
    watts: float | None = None
    idle_watts: float | None = None
    price: float | None = None
    rent_per_hour: float | None = None
    source: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is this one, which is measured."""
        return self.key == HERE


MOST = 1e9  # of any figure; also keeps 1e400, which TOML reads as infinity, out
POSITIVE = ("cores", "ghz", "int8_per_cycle", "int8_gmacs", "bandwidth_gbs", "memory_gb", "watts", "idle_watts",
            "price", "rent_per_hour")  # fmt: skip


@cache
def known_machines() -> Mapping[str, Machine]:
    """The committed table by key."""
    raw = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {key: make_machine({"key": key, **row}, key) for key, row in raw.items()}


def machine_named(key: str) -> Machine:
    """A machine of the table.

    Raises:
        ParameterError: it is not there.
    """
    known = known_machines()
    if key not in known:
        raise ParameterError(
            f"no machine {shown(key)}; known: {HERE}, {', '.join(known)}; describe another one in the plan file "
            "with cores, int8_gmacs (or ghz and int8_per_cycle), bandwidth_gbs and memory_gb"
        )
    return known[key]


def make_machine(raw: Mapping[str, Any], where: str) -> Machine:
    """A machine by its fields; ``int8_gmacs`` may be given as ``ghz`` and ``int8_per_cycle``.

    Args:
        where: what to call it in messages.

    Raises:
        ParameterError: a field that is missing, unknown or out of range.
    """
    values = dict(raw)
    values.pop("kind", None)
    for name in POSITIVE:
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParameterError(f"{where}: {name} must be a positive number, not {kind_of(value)}")
        if not 0 < value < MOST:
            raise ParameterError(f"{where}: {name} must be above 0 and below {MOST:g}, not {shown(value)}")
    per_cycle = values.pop("int8_per_cycle", None)
    if "cores" in values and values["cores"] != int(values["cores"]):
        raise ParameterError(f"{where}: cores must be a whole number, not {shown(values['cores'])}")
    if "int8_gmacs" in values and per_cycle is not None:
        raise ParameterError(f"{where}: int8_gmacs and int8_per_cycle both say how fast it is; leave one out")
    if "int8_gmacs" not in values and per_cycle is not None and "cores" in values and "ghz" in values:
        values["int8_gmacs"] = values["cores"] * values["ghz"] * per_cycle
    for name in ("cores", "int8_gmacs", "bandwidth_gbs", "memory_gb"):
        if name not in values:
            way = " (or ghz and int8_per_cycle)" if name == "int8_gmacs" else ""
            raise ParameterError(f"{where}: {name} is missing{way}")
    unknown = sorted(set(values) - {field.name for field in fields(Machine)})
    if unknown:
        raise ParameterError(f"{where}: there is no field {shown(unknown[0])} of a machine")
    if values.get("kernels", "avx512") not in KERNELS:
        raise ParameterError(f"{where}: kernels must be one of {', '.join(KERNELS)}, not {shown(values['kernels'])}")
    values["cores"] = int(values["cores"])
    return Machine(**{"name": values["key"], **values})
