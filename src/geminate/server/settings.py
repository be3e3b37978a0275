"""Every setting of ``geminate serve``, defined once: name, type, default, range, help.

Command-line flags, the tables in the documentation and the validation all derive from the fields of `Settings`;
`geminate.server.sources` reads their values.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from geminate.audit.options import CONTENT, FAILURE, FSYNC, LEAST_BYTES, AuditOptions
from geminate.engine.pace import MAX_GAP_S
from geminate.errors import ParameterError
from geminate.kv.store import KV_FORMATS, check_kv
from geminate.loading.options import LoadOptions
from geminate.params import parse_speculation
from geminate.runtime.drafter import ROPE_POSITIONS, RopePosition
from geminate.server.gauges import gauge_aliases
from geminate.weights.presets import check_preset

ENV_PREFIX = "GEMINATE_SERVE_"
_DECLARED = {item.name: item for kind in (LoadOptions, AuditOptions) for item in dataclasses.fields(kind)}


def _setting(
    default: Any,
    help: str,
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    size: bool = False,
    choices: tuple[str, ...] | None = None,
    default_text: str | None = None,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """A field; ``size``: a byte count, also accepted with KiB, MiB, GiB; ``default_text``: the default in words."""
    metadata = {
        "help": help, "group": group, "low": low, "high": high, "size": size, "choices": choices,
        "default_text": default_text, "check": check,
    }  # fmt: skip
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _declared(name: str, *, group: str = "model", **limits: Any) -> Any:
    """A field with the default and the help that it has in `LoadOptions` or `AuditOptions`."""
    item = _DECLARED[name]
    meta = item.metadata
    return _setting(item.default, meta["help"], group=group, default_text=meta.get("empty"), **limits)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Validated settings; see each field's help.

    Raises:
        ParameterError: a value of the wrong type or outside its range, or values that contradict each other.
    """

    model: str | None = _declared("model")
    adapter: tuple[str, ...] = _declared("adapter")
    drafter: str = _declared("drafter")
    weights: str = _declared("weights", check=check_preset)
    kv: str = _declared("kv", choices=tuple(KV_FORMATS))
    threads: int | None = _declared("threads", low=1, high=256)
    rope_position: str = _declared("rope_position", choices=ROPE_POSITIONS)
    cache: bool = _setting(True, "Cache packed weights on disk for the next start.", group="model")
    verify_weights: bool | None = _declared("verify_weights")
    prefault: bool = _declared("prefault")
    model_id: str | None = _setting(
        None, "Name of the model in the API.", group="model", default_text="from the model's path"
    )
    alias: tuple[str, ...] = _setting((), "Additional model name that requests may use; repeatable.", group="model")

    speculation: str = _setting(
        "auto",
        "auto, off, ngram or a draft length 0..16, for requests that do not set it.",
        group="engine",
        check=parse_speculation,
    )
    max_running: int = _setting(
        16, "Maximum number of concurrently decoded sequences.", group="engine", low=1, high=256
    )
    max_waiting: int = _setting(
        64, "Maximum queue length; further requests get 429.", group="engine", low=0, high=100_000
    )
    kv_bytes: int | None = _setting(
        None,
        "KV-cache budget, shared by running sequences and the prefix cache.",
        group="engine",
        low=1,
        size=True,
        default_text="max_running sequences of 4,096 positions, or of the model's context if that is shorter",
    )
    grammar_bytes: int = _setting(
        128 << 20,
        "Memory that the compiled grammars of all requests may use together; one may use half of it.",
        group="engine",
        low=16 << 20,
        size=True,
    )
    prefix_cache: bool = _setting(
        True,
        "Reuse the KV cache of earlier prompts with the same prefix (users can time each other's hits).",
        group="engine",
    )
    prefix_store: str | None = _declared("prefix_store", group="engine")
    prefix_store_bytes: int = _declared("prefix_store_bytes", group="engine", low=1, size=True)
    max_inter_token_ms: float = _setting(
        1000 * MAX_GAP_S,
        "Time between two tokens of a completion that prompts read beside it may cause: a pass takes as many prompt "
        "tokens as fit; where decoding alone takes more than half of it, as many as double the pass.",
        group="engine",
        low=1,
        high=60_000,
    )
    prefill_share: int | None = _setting(
        None,
        "Maximum number of prompt tokens in a forward pass that also decodes.",
        group="engine",
        low=1,
        high=4096,
        default_text="what max_inter_token_ms allows",
    )
    max_context: int | None = _setting(
        None,
        "Maximum number of prompt plus completion tokens.",
        group="engine",
        low=2,
        default_text="the model's context",
    )
    kept_items_bytes: int = _setting(
        8 << 20,
        "Memory for output items of /v1/responses that later requests may name by item_reference; 0: keep none.",
        group="engine",
        low=0,
        size=True,
    )
    max_tokens: int = _setting(
        4096, "Completion limit for requests that set none (/v1/completions: 16).", group="engine", low=1
    )
    max_choices: int = _setting(
        16, "Maximum number of choices per request: n times the number of prompts.", group="engine", low=1, high=256
    )

    host: str = _setting("127.0.0.1", "Address to listen on.", group="network")
    port: int = _setting(8000, "Port to listen on; 0: a free port, reported in the log.", group="network", high=65535)
    api_key_file: str | None = _setting(
        None,
        "File with API keys, one per line, # starts a comment; GEMINATE_API_KEYS adds more, comma-separated.",
        group="network",
    )
    allow_unauthenticated: bool = _setting(False, "Allow a non-loopback address without API keys.", group="network")
    allowed_host: tuple[str, ...] = _setting(
        (),
        "Additional Host header to accept while there are no API keys, such as a proxy's name; repeatable.",
        group="network",
    )
    cors_origin: tuple[str, ...] = _setting(
        (), "Origin of web pages that may call the API from a browser; repeatable.", group="network"
    )
    page: bool = _setting(True, "Serve the web page at /.", group="network")
    unknown_fields: str = _setting(
        "ignore-hints",
        "ignore-hints: accept request fields that change nothing here and name them in a header; refuse: answer 400.",
        group="network",
        choices=("ignore-hints", "refuse"),
    )

    max_body_bytes: int = _setting(
        4 << 20, "Maximum request body size; larger bodies get 413.", group="limits", low=1024, high=1 << 30, size=True
    )
    max_connections: int = _setting(
        512,
        "Maximum number of open connections; half of them for those without an accepted request, of which the oldest "
        "gives way to a new one.",
        group="limits",
        low=1,
    )
    max_connections_per_address: int | None = _setting(
        None,
        "Maximum number of open connections from one address (IPv6: one /64 network); this machine's are not counted.",
        group="limits",
        low=1,
        default_text="a quarter of max_connections",
    )
    request_seconds: float = _setting(
        600.0, "Time limit for a request, including its time in the queue.", group="limits", low=0.1, high=86400
    )
    head_seconds: float = _setting(
        10.0, "Time limit for receiving a request's headers.", group="limits", low=0.1, high=3600
    )
    keyless_seconds: float = _setting(
        5.0,
        "Time limit for headers, and for idling, on a connection without an accepted request (with keys: a valid key).",
        group="limits",
        low=0.1,
        high=3600,
    )
    body_seconds: float = _setting(
        30.0, "Time limit for receiving a request's body.", group="limits", low=0.1, high=3600
    )
    idle_seconds: float = _setting(
        30.0, "Close an idle connection after this time.", group="limits", low=0.1, high=3600
    )
    write_seconds: float = _setting(
        30.0, "Disconnect a client that reads nothing for this long.", group="limits", low=0.1, high=3600
    )
    keepalive_seconds: float = _setting(
        5.0,
        "Send a comment line on a stream that has been silent for this long, so that proxies keep it open; 0: never.",
        group="limits",
        low=0.0,
        high=3600,
    )
    drain_seconds: float = _setting(
        30.0, "How long running requests may continue after SIGTERM.", group="limits", low=0.0, high=86400
    )

    log_format: str = _setting(
        "auto",
        "auto: text in a terminal, JSON elsewhere; or text or json.",
        group="log",
        choices=("auto", "text", "json"),
    )
    log_prompts: bool = _setting(False, "Write prompts to the log.", group="log")
    audit_log: str | None = _declared("audit_log", group="log")
    audit_content: str = _declared("audit_content", group="log", choices=CONTENT)
    audit_fsync: str = _declared("audit_fsync", group="log", choices=FSYNC)
    audit_failure: str = _declared("audit_failure", group="log", choices=FAILURE)
    audit_file_bytes: int = _declared("audit_file_bytes", group="log", low=LEAST_BYTES, size=True)
    gauge_alias: tuple[str, ...] = _setting(
        (),
        "GAUGE=NAME: another name of a gauge, for schedulers that read their own; repeatable.",
        group="log",
        check=gauge_aliases,
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check_field(item, getattr(self, item.name))
        if not self.host.strip():
            raise ParameterError("host must not be empty; 127.0.0.1 is this machine only")
        names = [self.model_id, *self.alias]
        if any(name is not None and not name.strip() for name in names):
            raise ParameterError("model_id and alias must not be empty")
        if "*" in self.cors_origin and len(self.cors_origin) > 1:
            raise ParameterError("cors_origin '*' already allows every origin; remove the other origins")

    def loading(self) -> LoadOptions:
        """The settings of the model's group as what loads it."""
        return LoadOptions(
            model=self.model,
            adapter=self.adapter,
            drafter=None if self.drafter == "none" else self.drafter,
            weights=check_preset(self.weights),
            kv=check_kv(self.kv),
            threads=self.threads,
            rope_position=cast(RopePosition, self.rope_position),
            use_cache=self.cache,
            verify_weights=self.verify_weights,
            prefault=self.prefault,
            prefix_store=self.prefix_store,
            prefix_store_bytes=self.prefix_store_bytes,
        )


def check_field(item: dataclasses.Field[Any], value: object) -> None:
    """Check the value of one field of `Settings`.

    Raises:
        ParameterError: a value of the wrong type or outside its range.
    """
    meta = item.metadata
    kind, optional, several = _kind(item.name)
    if value is None and optional:
        return
    values = value if several else (value,)
    if not isinstance(values, tuple) or not all(_is(kind, one) for one in values):
        raise ParameterError(f"{item.name} must be {words(kind, several)}, not {value!r}")
    low, high = meta["low"], meta["high"]
    if kind in (int, float) and low is None:
        low = 0
    for one in values:
        if kind in (int, float) and not ((low is None or one >= low) and (high is None or one <= high)):
            legal = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise ParameterError(f"{item.name} must be {legal}, not {one!r}")
        if meta["choices"] and one not in meta["choices"]:
            raise ParameterError(f"{item.name} must be one of {', '.join(meta['choices'])}, not {one!r}")
    if meta["check"] is not None:
        meta["check"](value)


def _is(kind: type, value: object) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def words(kind: type, several: bool) -> str:
    """A setting's type in words."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}[kind]
    return f"a list in which each item is {words}" if several else words


_HINTS: dict[str, Any] = {}


def _kind(name: str) -> tuple[type, bool, bool]:
    """A setting's type, whether None is allowed, and whether it is a list."""
    if not _HINTS:
        _HINTS.update(typing.get_type_hints(Settings))
    hint = _HINTS[name]
    optional = isinstance(hint, types.UnionType)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    several = typing.get_origin(hint) is tuple
    return (typing.get_args(hint)[0] if several else hint), optional, several


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, as the command-line flags and the documentation need it."""

    name: str
    kind: type
    several: bool
    size: bool
    help: str
    group: str
    default: str
    legal: str

    @property
    def flag(self) -> str:
        """``--max-running``; a switch has both forms, as Typer writes them."""
        if self.name == "model":
            return "MODEL"
        dashed = "--" + self.name.replace("_", "-")
        return f"{dashed}/--no-{dashed[2:]}" if self.kind is bool else dashed

    @property
    def env(self) -> str:
        """Name of the environment variable."""
        return ENV_PREFIX + self.name.upper()


def rows() -> list[Row]:
    """All settings in the order of their fields."""
    made = []
    for item in dataclasses.fields(Settings):
        kind, _, several = _kind(item.name)
        meta = item.metadata
        default = item.default if item.default is not dataclasses.MISSING else ()
        low, high = (0 if meta["low"] is None else meta["low"]), meta["high"]
        legal = ", ".join(meta["choices"] or ())
        if kind in (int, float):
            legal = f">= {low:g}" if high is None else f"{low:g} to {high:,.0f}"
        made.append(
            Row(
                name=item.name,
                kind=kind,
                several=several,
                size=meta["size"],
                help=meta["help"],
                group=meta["group"],
                default=meta["default_text"] or _written(default, meta["size"]),
                legal=legal,
            )
        )
    return made


def _written(value: object, size: bool) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if size and isinstance(value, int):
        return f"{value >> 20} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
