"""Gauges that load balancers read under names of their own, such as those of llm-d and of Kubernetes' Gateway API."""

from __future__ import annotations

import re
from collections.abc import Iterable

from geminate.errors import ParameterError

GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def gauge_aliases(items: Iterable[str]) -> dict[str, str]:
    """Further whole names of gauges, from ``gauge=name``.

    Raises:
        ParameterError: not of that form, no such gauge, a name that Prometheus does not allow, or the same name twice.
    """
    made: dict[str, str] = {}
    for item in items:
        gauge, equals, name = item.partition("=")
        if not equals or gauge not in GAUGES:
            raise ParameterError(
                f"gauge_alias must be GAUGE=NAME, where GAUGE is one of {', '.join(GAUGES)}, not {item!r}"
            )
        if not _NAME.fullmatch(name):
            raise ParameterError(f"gauge_alias: {name!r} is no name for a metric: letters, digits, _ and :")
        if name in made or name.startswith("geminate:"):
            raise ParameterError(f"gauge_alias: the name {name} is taken")
        made[name] = gauge
    return made
