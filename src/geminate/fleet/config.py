"""A fleet's configuration: `fleet.toml`, with the settings of `geminate serve` for the ingress and for each model."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geminate.cores import pick_threads
from geminate.errors import ParameterError
from geminate.server.settings import Settings, rows
from geminate.server.sources import checked, read_toml
from geminate.server.state import default_id

CONFIG_ENV = "GEMINATE_FLEET_CONFIG"
TABLES = ("fleet", "serve", "model")
MODEL_GROUPS = ("model", "engine")
SERVE_ONLY = ("kept_items_bytes", "max_tokens", "max_choices")  # of the engine's group, but read by the ingress
SOCKET_LIMITS = (
    "max_connections",
    "max_connections_per_address",
    "head_seconds",
    "keyless_seconds",
    "body_seconds",
    "write_seconds",
)
"""Settings of connections, which the ingress keeps where it listens itself; Ray's proxy has none of them."""


def _key(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """Table ``[fleet]``; see each field's help."""

    address: str | None = _key(None, "Running Ray cluster to use, such as auto; default: one of its own, here.")
    dashboard: bool = _key(False, "Start Ray's dashboard, on 127.0.0.1:8265.")
    retries: int = _key(3, "Replicas that one completion may lose before its request fails.", low=0, high=100)
    stall_seconds: float = _key(20.0, "Silence after which a replica counts as lost.", low=1, high=3600)
    publish_seconds: float = _key(1.0, "Time between two reports of a replica's load and cache.", low=0.1, high=60)
    pin: bool = _key(True, "Keep each replica on cores of its own, where there are as many as its threads.")
    object_store_bytes: int = _key(
        80 << 20, "Memory of Ray's object store, of which hardly any is used.", low=80 << 20, high=1 << 40
    )


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """Keys of a ``[[model]]`` table beside the settings of `geminate serve`."""

    replicas: int = _key(2, "Replicas at the start, and the fewest there are.", low=1, high=1000)
    max_replicas: int | None = _key(None, "Most replicas that the load may call for; default: replicas.", low=1)
    scale_up_seconds: float = _key(30.0, "Time for which the load must call for another replica.", low=0, high=86400)
    scale_down_seconds: float = _key(600.0, "Time for which a replica must be too many.", low=0, high=86400)
    revision: str = _key("", "Change it when the weights behind the same path have changed.")
    proof: str = _key("", "Hash that the fixed run must give; default: that of the first replica.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model of a fleet."""

    settings: Settings
    options: ReplicaOptions

    @property
    def id(self) -> str:
        """The model's name in the API."""
        return self.settings.model_id or default_id(self.settings.model)

    @property
    def deployment(self) -> str:
        """The name of its deployment in Ray Serve."""
        return "model-" + "".join(c if c.isalnum() or c in "-_." else "-" for c in self.id)

    @property
    def key(self) -> str:
        """What replicas that prove the same have in common: the model as it is configured."""
        parts = (self.id, repr(self.settings.loading()), self.options.revision)
        return f"{self.id}:{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """A whole fleet.

    Attributes:
        settings: of the ingress; those of its model are the first model's.
    """

    fleet: FleetOptions
    settings: Settings
    models: tuple[ModelConfig, ...]

    @property
    def threads(self) -> int:
        """Threads of all replicas together, at the start."""
        return sum((model.settings.threads or 1) * model.options.replicas for model in self.models)


def load_fleet(
    path: str | Path | None = None, *, overrides: Mapping[str, Any] | None = None, listens: bool = True
) -> FleetConfig:
    """Read a configuration.

    Args:
        path: a TOML file; None: what ``GEMINATE_FLEET_CONFIG`` names, else two replicas of the embedded pair.
        overrides: values of ``table.name`` that go before the file's; those of ``model`` hold for every model.
        listens: whether the ingress listens itself; else Ray's proxy does, which has no limits on connections.

    Raises:
        ParameterError: the file cannot be read; a table, a key or a value that does not exist or contradicts others.
    """
    path = path or os.environ.get(CONFIG_ENV)
    raw = {} if path is None else read_toml(Path(path))
    source = "" if path is None else f"{path}: "
    for name in raw:
        if name not in TABLES:
            near = difflib.get_close_matches(name, TABLES, n=1)
            hint = f"; did you mean [{near[0]}]?" if near else ""
            raise ParameterError(f"{source}there is no table [{name}]{hint}")
    given: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    for name, value in (overrides or {}).items():
        table, _, key = name.partition(".")
        if value is not None:
            given[table][key] = value
    models = raw.get("model", [{}])
    if not isinstance(models, list) or not models or not all(isinstance(one, dict) for one in models):
        raise ParameterError(f"{source}model must be an array of tables: [[model]]")
    fleet = _options(FleetOptions, {**_table(raw, "fleet", source), **given["fleet"]}, f"{source}[fleet]")
    serve = _serve_settings({**_table(raw, "serve", source), **given["serve"]}, f"{source}[serve]", listens)
    made = tuple(
        _model({**one, **given["model"]}, serve, f"{source}[[model]] {number}", given)
        for number, one in enumerate(models, 1)
    )
    ids = [model.id for model in made]
    if len({model.deployment for model in made}) < len(made):
        raise ParameterError(f"{source}models need names of their own (model_id), and these are {', '.join(ids)}")
    config = FleetConfig(fleet=fleet, settings=made[0].settings, models=made)
    return _with_threads(config, source)


def _table(raw: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    table = raw.get(name, {})
    if not isinstance(table, dict):
        raise ParameterError(f"{source}{name} must be a table: [{name}]")
    return table


def _serve_settings(table: Mapping[str, Any], source: str, listens: bool) -> dict[str, Any]:
    groups = {row.name: row.group for row in rows()}
    for name in table:
        if name in SOCKET_LIMITS and not listens:
            raise ParameterError(
                f"{source}: {name} is a limit on connections, and under serve run they end in Ray's proxy, which has "
                "none: use geminate fleet up, or set it in the balancer before the fleet"
            )
        if groups.get(name) in MODEL_GROUPS and name not in SERVE_ONLY:
            raise ParameterError(f"{source}: {name} belongs to a model: put it into [[model]]")
    made = checked(table, source)
    if made.get("audit_log"):
        made["audit_log"] = os.path.abspath(os.path.expanduser(made["audit_log"]))  # the ingress may start elsewhere
    return made


def _model(table: dict[str, Any], serve: dict[str, Any], source: str, given: Mapping[str, Any]) -> ModelConfig:
    own = {item.name for item in dataclasses.fields(ReplicaOptions)}
    groups = {row.name: row.group for row in rows()}
    for name in table:
        if name in SERVE_ONLY or groups.get(name, "model") not in MODEL_GROUPS:
            raise ParameterError(f"{source}: {name} holds for all models: put it into [serve]")
    options = _options(ReplicaOptions, {k: v for k, v in table.items() if k in own}, source)
    if options.max_replicas is not None and options.max_replicas < options.replicas:
        raise ParameterError(f"{source}: max_replicas {options.max_replicas} is less than replicas {options.replicas}")
    values = checked({k: v for k, v in table.items() if k not in own}, source)
    return ModelConfig(settings=Settings(**{**serve, **values}), options=options)


def _options(kind: Any, table: Mapping[str, Any], source: str) -> Any:
    """Options of a kind from a table.

    Raises:
        ParameterError: an unknown key, a value of another type or out of range.
    """
    known = {item.name: item for item in dataclasses.fields(kind)}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(f"{source}: there is no key {name!r}{hint}")
        _check(known[name], value, source)
    return kind(**table)


def _check(item: dataclasses.Field[Any], value: Any, source: str) -> None:
    words = {"str": "a string", "bool": "true or false", "int": "an integer", "float": "a number"}
    kind = str(item.type).removesuffix(" | None")
    right = {"str": isinstance(value, str), "bool": isinstance(value, bool)}.get(kind)
    if right is None:
        right = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
    if not right:
        raise ParameterError(f"{source}: {item.name} must be {words[kind]}, not {value!r}")
    low, high = item.metadata["low"], item.metadata["high"]
    if low is not None and not low <= value <= (value if high is None else high):
        legal = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ParameterError(f"{source}: {item.name} must be {legal}, not {value!r}")


def _with_threads(config: FleetConfig, source: str) -> FleetConfig:
    """Every model with its number of threads: where none is given, this machine's cores are shared out."""
    if all(model.settings.threads is not None for model in config.models):
        return config
    if config.fleet.address is not None:
        raise ParameterError(f"{source}on a cluster every [[model]] needs threads: a replica's cores")
    share = max(1, pick_threads().count // sum(model.options.replicas for model in config.models))
    models = tuple(
        model
        if model.settings.threads is not None
        else dataclasses.replace(model, settings=dataclasses.replace(model.settings, threads=share))
        for model in config.models
    )
    return dataclasses.replace(config, settings=models[0].settings, models=models)
