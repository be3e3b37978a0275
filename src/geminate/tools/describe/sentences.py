"""A described model in sentences, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from geminate.loading.hub.choice import gguf_groups, is_drafter_name
from geminate.loading.hub.names import known_name
from geminate.loading.hub.snapshots import find_pulled
from geminate.sizes import gigabytes
from geminate.tools.bench.shapes import load_shape
from geminate.tools.capacity.expected import POSITION, arithmetic, expected_speed
from geminate.tools.capacity.figures import number
from geminate.tools.capacity.models import ACCEPTANCE
from geminate.tools.capacity.sizing import PROCESS_BYTES
from geminate.tools.describe.model import Described
from geminate.tools.describe.needs import Needs, loss, needs_of, unread_embeddings
from geminate.weights.presets import check_preset

UNKNOWN = "unknown"


def sentences(found: Described) -> list[str]:
    """What `geminate show` prints above its tables."""
    return [*_what(found), *_where(found), *_size(found), *needs_lines(found), *_drafter(found)]


def needs_lines(found: Described) -> Iterator[str]:
    """Parameters, memory and disk."""
    if found.config is None or not found.formats:
        yield "parameters and memory: unknown, its name says no size of Gemma 4; they can be read once it is pulled"
        return
    needs, config = found.formats[0], found.config
    most = config.max_position_embeddings
    yield f"parameters: {_counted(found.parameters or 0)} (text), context up to {most:,} tokens"
    drafter_bytes = "" if needs.drafter is None else f" + drafter {gigabytes(needs.drafter)}"
    yield (
        f"memory: weights {gigabytes(needs.weights)} in {needs.preset}{drafter_bytes}, {gigabytes(needs.kv)} for the "
        f"first 1,000 tokens of context and {gigabytes(needs.kv_more)} for each 1,000 more, about "
        f"{gigabytes(PROCESS_BYTES)} for the process"
    )
    packed = needs.weights + (needs.drafter or 0) + needs.row_table
    files = f"{gigabytes(found.file_bytes)} of files" if found.file_bytes is not None else "the download"
    table = f", {gigabytes(needs.row_table)} of them read row by row and never whole" if needs.row_table else ""
    yield f"disk: {files}, and about {gigabytes(packed)} of packed weights that later starts map{table}"


def reasons(found: Described) -> list[str]:
    """The arithmetic behind the speed of the format that comes first; empty where there is none."""
    if not found.formats or found.formats[0].speed is None:
        return []
    needs = found.formats[0]
    assert needs.speed is not None
    _, source = ACCEPTANCE["published"]
    computed = needs.speed.costs.kind == "computed"
    lines = arithmetic(needs.speed, needs.work, found.here if computed else None, f"as published ({source})")
    others = []
    for name in ("code", "prose"):
        survival, where = ACCEPTANCE[name]
        if needs.drafter is not None:
            again = expected_speed(needs.work, needs.speed.costs, survival)
            others.append(f"{number(again.speculating)} with that of {name} ({where})")
    return [*lines, f"with other acceptance: {', '.join(others)}"] if others else lines


def format_rows(found: Described) -> list[tuple[str, str, str, str, str]]:
    """Format, memory, quality, tokens a second plain and speculating, for each format to choose from."""
    return [
        (
            f"auto ({needs.preset})" if needs.preset == "q4_k_m" else needs.preset,
            gigabytes(needs.weights + (needs.drafter or 0)),
            loss(needs.preset),
            _rate(needs, speculating=False),
            _rate(needs, speculating=True),
        )
        for needs in found.formats
    ]


def variant_lines(found: Described) -> list[str]:
    """Every variant of a model of the catalogue: what it is, download, memory, tokens a second, whether it is here."""
    model = found.known
    if model is None:
        return []
    config, assistant, _ = load_shape(model.shape, None)
    lines = []
    for variant in model.variants:
        needs = None
        if variant.preset is not None:
            entries = None if variant.embeddings is None else unread_embeddings(variant.embeddings)
            needs = needs_of(config, assistant, check_preset(variant.preset), found.here, entries=entries)
        name = known_name(f"{model.name}:{variant.name}")
        here = name is not None and find_pulled(name).path is not None
        parts = [
            f"{model.name}:{variant.name}{' (here)' if here else ''}: {variant.what}",
            f"download {variant.download}",
            "" if needs is None else f"{gigabytes(needs.weights + (needs.drafter or 0))} in memory",
            "" if needs is None or needs.speed is None else f"{_rates(needs)} tokens a second",
        ]
        lines.append("; ".join(part for part in parts if part))
    return lines


def _rates(needs: Needs) -> str:
    return f"{_rate(needs, speculating=False)}, with drafts {_rate(needs, speculating=True)}"


def as_json(found: Described) -> dict[str, Any]:
    """For ``--json``; bytes and tokens a second."""
    config = found.config
    body: dict[str, Any] = {
        "name": found.title,
        "path": None if found.path is None else str(found.path),
        "repository": None if found.name is None else found.name.repository,
        "licence": _licence(found) or None,
        "parameters": found.parameters,
        "context": None if config is None else config.max_position_embeddings,
        "download_bytes": _download_bytes(found),
        "file_bytes": found.file_bytes,
        "drafter": None if found.drafter is None or found.drafter.path is None else str(found.drafter.path),
        "drafter_note": None if found.drafter is None else found.drafter.note,
        "formats": [_json_needs(needs) for needs in found.formats],
        "arithmetic": reasons(found),
    }
    return body


def _json_needs(needs: Needs) -> dict[str, Any]:
    speed = needs.speed
    return {
        "weights": needs.preset,
        "memory_bytes": {"weights": needs.weights, "drafter": needs.drafter, "kv_1000_tokens": needs.kv,
                         "kv_next_1000_tokens": needs.kv_more},
        "disk_bytes": {"row_table": needs.row_table},
        "tokens_per_s": None if speed is None else {
            "plain": round(speed.plain, 3), "speculating": round(speed.speculating, 3), "draft_length": speed.length,
            "context": POSITION, "kind": speed.costs.kind, "error": speed.costs.error,
        },
    }  # fmt: skip


def _what(found: Described) -> Iterator[str]:
    if found.variant is not None:
        yield f"{found.title}: {found.variant.what}"
    else:
        yield f"{found.title}"


def _where(found: Described) -> Iterator[str]:
    if found.name is not None:
        files = ""
        if found.variant is not None:
            files = f", {', '.join(found.variant.files)}"
        elif found.choice is not None and found.choice.main:
            files = f", {found.choice.main}"
        licence = _licence(found) or UNKNOWN
        yield f"from: {found.name.repository}{files}; licence {licence}{_gate(found)}"
    if found.path is not None:
        yield f"here: {found.path}"
    elif found.name is not None:
        yield f"not on this machine: {found.name.command} downloads it"


def _size(found: Described) -> Iterator[str]:
    size = _download_bytes(found)
    if found.name is not None and found.path is None:
        drafter = None if found.variant is None else found.variant.drafter_nbytes
        if found.choice is not None and found.choice.drafter:
            drafter = sum(file.nbytes or 0 for file in found.choice.drafter)
        yield (
            f"download: {UNKNOWN if size is None else gigabytes(size)}, its drafter "
            f"{UNKNOWN if drafter is None else gigabytes(drafter)}"
        )


def _drafter(found: Described) -> Iterator[str]:
    if found.drafter is not None:
        where = f" ({found.drafter.where})" if found.drafter.where else ""
        yield f"{found.drafter.note}{where}"
    elif found.variant is not None:
        yield f"drafter: {found.variant.drafter}, which comes with it"
    elif found.choice is not None and found.choice.drafter_main:
        yield f"drafter: {found.choice.drafter_main} of the same repository, which comes with it"
    if found.listing is not None:
        groups = [group for group in gguf_groups(found.listing.files) if not is_drafter_name(group.name)]
        if len(groups) > 1 and found.name is not None:
            named = ", ".join(
                f"{group.quantization or group.name} {gigabytes(group.nbytes or 0)}" for group in groups[:24]
            )
            yield f"files of {found.name.repository}: {named}"


def _licence(found: Described) -> str:
    if found.known is not None:
        return found.known.licence
    return "" if found.listing is None else found.listing.licence


def _gate(found: Described) -> str:
    gated = found.known.gated if found.known is not None else None if found.listing is None else found.listing.gated
    return "" if gated is None else ", which has to be accepted on the hub first" if gated else ", no sign-in needed"


def _download_bytes(found: Described) -> int | None:
    if found.variant is not None:
        return found.variant.nbytes
    if found.choice is not None:
        return sum(file.nbytes or 0 for file in found.choice.files)
    return None


def _rate(needs: Needs, *, speculating: bool) -> str:
    if needs.speed is None or (speculating and needs.drafter is None):
        return "-"
    return number(needs.speed.speculating if speculating else needs.speed.plain)


def _counted(count: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"
