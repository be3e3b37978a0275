"""``geminate cache``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from geminate.cli.console import fail, printable, say, tell, user_errors, write_json
from geminate.errors import StorageError
from geminate.loading.hub.pulled import pulled_models
from geminate.loading.hub.snapshots import hub_cache
from geminate.sizes import gigabytes
from geminate.weights.cache import LIMIT_VARIABLE, Kept, cache_directory, cache_limit, entries, remove


@user_errors()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all packed weights that are not in use.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove those whose checkpoint is gone, and those of other versions.")
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Packed weights on this disk, which model each belongs to, and the limit; pulled models are listed by `list`.

    Packed weights are made again when they are needed. A file that a process has open is never removed.
    """
    if clear and prune:
        fail("--clear removes what --prune does: name one of them")
    freed = 0
    for kept in entries() if clear or prune else ():
        if clear or kept.orphaned or not kept.usable:
            freed += _removed(kept)
    left, limit = entries(), cache_limit()
    pulled = sum(model.nbytes for model in pulled_models())
    if json_out:
        write_json({
            "directory": str(cache_directory()), "limit_bytes": limit, "freed_bytes": freed,
            "files": [_json(kept) for kept in left], "hub_cache": str(hub_cache()), "pulled_bytes": pulled,
        })  # fmt: skip
        return
    if clear or prune:
        tell(f"removed {gigabytes(freed)}")
    for kept in left:
        tell(printable(_line(kept)))
    whole = sum(kept.nbytes for kept in left)
    bound = f"limited to {gigabytes(limit)}" if limit is not None else "without limit"
    tell(printable(f"{cache_directory()}: {gigabytes(whole)} of packed weights, {bound} ({LIMIT_VARIABLE})"))
    tell(printable(f"{hub_cache()}: {gigabytes(pulled)} of pulled models (geminate list)"))


def _removed(kept: Kept) -> int:
    try:
        return remove(kept)
    except StorageError as error:  # in use, or not ours to remove: the others can go
        say(str(error))
        return 0


def _line(kept: Kept) -> str:
    states = [
        word
        for word, true in (
            ("in use", kept.in_use),
            ("its checkpoint is gone", kept.orphaned),
            ("of another version", not kept.usable),
        )
        if true
    ]
    used = time.strftime("%Y-%m-%d", time.localtime(kept.used))
    what = " ".join(word for word in (kept.part, kept.weights) if word)
    return f"{gigabytes(kept.nbytes):>10}  {used}  {kept.model or kept.path.name}" + (
        f" ({', '.join([what, *states] if what else states)})" if what or states else ""
    )


def _json(kept: Kept) -> dict[str, object]:
    return {
        "path": str(kept.path), "bytes": kept.nbytes, "model": kept.model or None, "part": kept.part or None,
        "weights": kept.weights or None, "last_used": round(kept.used), "in_use": kept.in_use, "usable": kept.usable,
        "orphaned": kept.orphaned,
    }  # fmt: skip
