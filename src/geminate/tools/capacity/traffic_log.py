"""A workload out of a log of real requests: JSON lines, or the server's audit log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geminate.audit.files import rotated
from geminate.errors import ParameterError
from geminate.tools.capacity.workload import CURVES, DAY_S, HOURS, Observed, Workload

LEAST_SPAN_S = 60.0
HOUR_S = DAY_S / HOURS
MAX_BYTES = 1 << 30
AUDIT_NOTES = ("start", "gap", "stop")  # lines of an audit log that are no requests
FORMAT = (
    'JSON lines with "time" (seconds or ISO 8601), "prompt_tokens", "completion_tokens" and perhaps "prefix" and '
    '"prefix_tokens"'
)


def read_log(path: Path) -> Workload:
    """The workload that a log shows: its rate, its hours (of a log of a day or more), its lengths and prefixes.

    Raises:
        ParameterError: unreadable, no such log, or too short for a rate.
    """
    times: list[float] = []
    observed: list[Observed] = []
    names: dict[str, int] = {}
    try:
        parts = [*(part for _, part in rotated(path)), path]  # an audit log goes on from file to file
        if sum(part.stat().st_size for part in parts) > MAX_BYTES:
            raise ParameterError(f"{path} has more than {MAX_BYTES >> 30} GiB; use a part of it")
        with parts[0].open("rb") as start:
            if b"\0" in start.read(4096):
                raise ParameterError(f"{path} is no request log: it is a binary file; expected {FORMAT}")
        audit = _is_audit_log(parts[0])
        for part in parts:
            with part.open(encoding="utf-8", errors="replace" if audit else "strict") as lines:
                for at, line in enumerate(lines, 1):
                    if line.strip():
                        _take(line, f"{part}, line {at}", times, observed, names, torn=audit)
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ParameterError(f"{path} is no request log: it is not UTF-8; expected {FORMAT}") from None
    if len(times) < 2 or max(times) - min(times) < LEAST_SPAN_S:
        seconds = max(times, default=0.0) - min(times, default=0.0)
        raise ParameterError(
            f"{path} holds {len(times)} request{'s' * (len(times) != 1)} over {seconds:.0f} s; a rate needs two or "
            f"more over {LEAST_SPAN_S:.0f} s, so state requests_per_day and the lengths instead"
        )
    span = max(times) - min(times)
    # The last request has a gap behind it like the others.
    rate = len(times) / (span * len(times) / (len(times) - 1))
    return Workload(
        requests_per_day=rate * DAY_S,
        curve=_curve(times) if span >= DAY_S - HOUR_S else CURVES["flat"],
        observed=tuple(observed),
        source=f"{len(times):,} requests of {path}",
    )


def _is_audit_log(path: Path) -> bool:
    with path.open("rb") as lines:
        return b'"prev":' in lines.readline(1 << 20)


def _take(
    line: str, where: str, times: list[float], observed: list[Observed], names: dict[str, int], *, torn: bool
) -> None:
    """Add a line's requests; one that was refused or failed before its first token adds none.

    Args:
        torn: whether lines may be cut off, as a crash leaves them in an audit log: they add none.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        if torn:
            return
        raise ParameterError(f"{where}: no JSON; expected {FORMAT}") from None
    if not isinstance(raw, Mapping):
        raise ParameterError(f"{where}: no JSON object; expected {FORMAT}")
    try:
        for body in _requests(raw):
            moment = _seconds(body["time"])
            prompt, completion = _count(body["prompt_tokens"]), _count(body["completion_tokens"])
            shared = min(_count(body.get("prefix_tokens", 0)), prompt)
            if not prompt or not completion:
                continue
            name = body.get("prefix")
            known = -1 if name is None or not shared else names.setdefault(str(name), len(names))
            times.append(moment)
            shared = shared if known >= 0 else 0
            observed.append(Observed(prompt=prompt, completion=completion, prefix=known, prefix_tokens=shared))
    except (KeyError, ValueError, TypeError, OverflowError):
        raise ParameterError(f"{where}: expected {FORMAT}") from None


def _requests(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The requests of a line; the audit log's have runs with choices, and lines about the log itself."""
    if raw.get("type") in AUDIT_NOTES:
        return []
    if "runs" not in raw:
        return [raw]
    made: list[Mapping[str, Any]] = []
    for run in raw["runs"]:
        prompt = run["prompt"]
        # The log has a hash of the whole prompt: of prompts that are alike in part nothing is known.
        shared = {"prefix": prompt["sha256"], "prefix_tokens": prompt["tokens"]}
        made += [
            {"time": raw["time"], "prompt_tokens": prompt["tokens"], "completion_tokens": choice["tokens"], **shared}
            for choice in run["choices"]
        ]
    return made


def _seconds(value: object) -> float:
    if isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise ValueError(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _curve(times: list[float]) -> tuple[float, ...]:
    """Requests by hour of the day (UTC), none of them 0."""
    counts = Counter(int(moment % DAY_S // HOUR_S) for moment in times)
    return tuple(float(max(1, counts[hour])) for hour in range(HOURS))
