"""The plan file: workload, objectives, models, machines and prices, in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geminate.errors import ParameterError, shown
from geminate.kv.store import check_kv
from geminate.tools.capacity.fields import Fields
from geminate.tools.capacity.machines import HERE, make_machine
from geminate.tools.capacity.money import Prices
from geminate.tools.capacity.simulate import ServerLimits
from geminate.tools.capacity.sizing import Objectives
from geminate.tools.capacity.traffic_log import read_log
from geminate.tools.capacity.workload import CURVES, HOURS, Lengths, Prefixes, Workload
from geminate.weights.presets import check_preset

MAX_TOKENS = 1 << 20
MAX_LOAD = 1e10  # requests a day
NO_RATE = (
    "the load is missing: what a token costs depends on it most of all; state --requests-per-day, "
    "requests_per_day under [workload] in a plan file, or a log of requests (--log)"
)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model as it is named, before it is looked for; see `models.make_candidate`."""

    name: str
    weights: str = "int4"
    kv: str = "f16"
    acceptance: object = "published"
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """What a plan is made from.

    Attributes:
        machines: a key of the table, `HERE`, or the fields of a machine.
    """

    workload: Workload | None = None
    objectives: Objectives = field(default_factory=Objectives)
    prices: Prices = field(default_factory=Prices)
    limits: ServerLimits = field(default_factory=ServerLimits)
    models: tuple[ModelChoice, ...] = ()
    machines: tuple[str | Mapping[str, Any], ...] = ()


def read_plan(path: Path) -> PlanFile:
    """A plan file.

    Raises:
        ParameterError: unreadable, no TOML, or a field that is unknown or out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ParameterError(f"{path} is no TOML: {error}") from None
    top = Fields(raw, str(path))
    workload = top.take("workload")
    made = PlanFile(
        workload=None if workload is None else _workload(Fields(workload, "[workload]"), path.parent),
        objectives=_objectives(Fields(top.take("objectives") or {}, "[objectives]")),
        prices=_prices(Fields(top.take("prices") or {}, "[prices]")),
        limits=_limits(Fields(top.take("server") or {}, "[server]")),
        models=tuple(_model(Fields(one, "[[model]]")) for one in top.tables("model")),
        machines=tuple(_machine(one) for one in top.tables("machine")),
    )
    top.end()
    return made


def _workload(fields: Fields, folder: Path) -> Workload:
    log = fields.text("log")
    rate = fields.number("requests_per_day", 0, MAX_LOAD, above=True)
    if log is None and rate is None:
        raise ParameterError(NO_RATE)
    made = Workload(requests_per_day=rate or 1.0) if log is None else read_log(folder / log)
    if rate is not None:
        made = replace(made, requests_per_day=rate)
    curve = fields.take("curve")
    if curve is not None:
        made = replace(made, curve=curve_of(curve))
    prompt, completion = fields.take("prompt"), fields.take("completion")
    if log is not None and (prompt is not None or completion is not None):
        raise ParameterError("[workload]: prompt or completion and log both say how long requests are; leave one out")
    if prompt is not None:
        made = replace(made, prompt=lengths_of(prompt, "[workload] prompt"))
    if completion is not None:
        made = replace(made, completion=lengths_of(completion, "[workload] completion"))
    prefix = fields.take("prefix")
    if prefix is not None:
        made = replace(made, prefixes=_prefixes(Fields(prefix, "[workload] prefix")))
    most = fields.whole("max_tokens", 1, MAX_TOKENS)
    if most is not None:
        made = replace(made, max_tokens=most)
    fields.end()
    return made


def curve_of(given: object) -> tuple[float, ...]:
    """Relative rates of the 24 hours, by name or as numbers.

    Raises:
        ParameterError: neither.
    """
    if isinstance(given, str) and given in CURVES:
        return CURVES[given]
    numbers = given if isinstance(given, list) else []
    good = all(isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < 1e9 for x in numbers)
    if len(numbers) == HOURS and good and not any(numbers):
        raise ParameterError("[workload]: curve has 24 zeros; relative rates of the hours need one above 0")
    if len(numbers) != HOURS or not good:
        raise ParameterError(
            f"[workload]: curve must be {', '.join(CURVES)} or {HOURS} numbers, one an hour, not {shown(given)}"
        )
    return tuple(float(x) for x in numbers)


def lengths_of(given: object, where: str) -> Lengths:
    """A number of tokens, or a table with median, p95 and perhaps max.

    Raises:
        ParameterError: neither.
    """
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = {"median": given, "p95": given}
    fields = Fields(given, where)
    median, p95 = fields.number("median", 1, MAX_TOKENS), fields.number("p95", 1, MAX_TOKENS)
    most = fields.whole("max", 1, MAX_TOKENS)
    fields.end()
    if median is None:
        raise ParameterError(f"{where}: median is missing")
    p95 = median if p95 is None else p95
    if p95 < median:
        raise ParameterError(f"{where}: p95 must be at least the median, not {p95:g} where that is {median:g}")
    if most is not None and most < p95:
        raise ParameterError(f"{where}: max must be at least p95, not {most} where that is {p95:g}")
    return Lengths(median=median, p95=p95, most=most or MAX_TOKENS)


def _prefixes(fields: Fields) -> Prefixes:
    tokens, share = fields.whole("tokens", 0, MAX_TOKENS), fields.number("share", 0, 1)
    count = fields.whole("count", 1, 1_000_000)
    fields.end()
    return Prefixes(tokens=tokens or 0, share=1.0 if share is None else share, count=count or 1)


def _objectives(fields: Fields) -> Objectives:
    made = Objectives()
    first = fields.number("first_token_p95_s", 0, 86_400, above=True)
    rate = fields.number("tokens_per_s", 0, 1e6, above=True)
    availability = fields.number("availability", 0, 0.999999)
    machine = fields.number("machine_availability", 0, 1, above=True)
    fields.end()
    return Objectives(
        first_token_p95_s=first or made.first_token_p95_s,
        tokens_per_s=rate or made.tokens_per_s,
        availability=availability,
        machine_availability=machine or made.machine_availability,
    )


def _prices(fields: Fields) -> Prices:
    made = Prices()
    energy, pue = fields.number("energy_per_kwh", 0, 1e6), fields.number("pue", 1, 10)
    years = fields.number("years", 0, 100, above=True)
    operations = fields.number("operations_per_day", 0, 1e9)
    cloud_in, cloud_out = fields.number("cloud_input", 0, 1e6), fields.number("cloud_output", 0, 1e6)
    currency = fields.text("currency")
    fields.end()
    if (cloud_in is None) != (cloud_out is None):
        raise ParameterError("[prices]: cloud_input and cloud_output go together, a million tokens each")
    return Prices(
        currency=currency or made.currency,
        energy_per_kwh=made.energy_per_kwh if energy is None else energy,
        pue=pue or made.pue,
        years=years or made.years,
        operations_per_day=operations or 0.0,
        cloud_input=cloud_in,
        cloud_output=cloud_out,
    )


def _limits(fields: Fields) -> ServerLimits:
    made = ServerLimits()
    running, waiting = fields.whole("max_running", 1, 256), fields.whole("max_waiting", 0, 100_000)
    kv = fields.whole("kv_bytes", 1, 1 << 50)
    fields.end()
    return replace(
        made,
        max_running=running or made.max_running,
        max_waiting=made.max_waiting if waiting is None else waiting,
        kv_bytes=kv,
    )


def _model(fields: Fields) -> ModelChoice:
    name = fields.text("name")
    if not name:
        raise ParameterError("[[model]]: name is missing")
    weights, kv = fields.text("weights") or "int4", fields.text("kv") or "f16"
    try:
        check_preset(weights)
        check_kv(kv)
    except ParameterError as error:
        raise ParameterError(f"[[model]] {name}: {error}") from None
    acceptance, context = fields.take("acceptance"), fields.whole("context", 2, MAX_TOKENS)
    fields.end()
    return ModelChoice(
        name=name, weights=weights, kv=kv, context=context, acceptance="published" if acceptance is None else acceptance
    )


def _machine(raw: object) -> str | Mapping[str, Any]:
    """A key alone names a machine of the table, or `HERE`; more fields describe one, or change one of the table."""
    fields = dict(Fields(raw, "[[machine]]").raw)
    key = fields.pop("name", None)
    if not isinstance(key, str) or not key:
        raise ParameterError("[[machine]]: name is missing")
    if not fields:
        return key
    if key != HERE and "cores" in fields:
        make_machine({"key": key, **fields}, f"machine {key}")
    return {"key": key, **fields}
