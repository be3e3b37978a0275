"""``geminate pull``."""

from __future__ import annotations

from typing import Annotated

import typer

from geminate.cli.bars import Bars
from geminate.cli.console import printable, say, tell, user_errors, write_json
from geminate.loading.drafters import find_drafter
from geminate.loading.hub.pull import Pulled, pull
from geminate.loading.hub.remote import KEPT
from geminate.sizes import gigabytes


@user_errors()
def pull_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name of the catalogue (NAME[:VARIANT]), hub id, or OWNER/NAME-GGUF:Q4_K_M; also as an address.",
        ),
    ],
    drafter: Annotated[
        str, typer.Option("--drafter", help="auto: the published one; none; or the name of another.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Download a model and its drafter into the hub cache; a download that was cut continues."""
    try:
        with Bars(bytes_shown=True, shown=not quiet) as bars:
            done = pull(
                name,
                drafter=None if drafter == "none" else drafter,
                on_message=(lambda text: None) if quiet else say,
                on_progress=lambda file, there, size: bars.part(file, there, size),
            )
    except KeyboardInterrupt:
        say(KEPT)
        raise
    found = find_drafter(name, done.target, "auto" if drafter != "none" else "none")
    if json_out:
        write_json(_json(done, None if found.path is None else str(found.path)))
        return
    tell(printable(f"{done.name}: {done.target}"))
    tell(printable(found.note))
    came = f"{gigabytes(done.downloaded)} downloaded" if done.downloaded else "nothing to download"
    tell(printable(f"{came}; geminate chat {done.name} talks to it, geminate show {done.name} says what it needs"))


def _json(done: Pulled, drafter: str | None) -> dict[str, object]:
    return {
        "name": done.name,
        "target": str(done.target),
        "drafter": drafter,
        "repository": done.repository,
        "drafter_repository": done.drafter_repository,
        "bytes": done.nbytes,
        "downloaded_bytes": done.downloaded,
        "licence": done.licence or None,
    }
