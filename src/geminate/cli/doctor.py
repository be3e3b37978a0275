"""``geminate doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from geminate.cli.console import printable, tell, user_errors, write_json
from geminate.tools.doctor import examine, sentences


@user_errors()
def doctor(
    fast: Annotated[bool, typer.Option("--fast", help="Measure nothing.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What this machine is, which kernels and threads run on it, where caches lie, what is missing."""
    found = examine(measure=not fast)
    if json_out:
        write_json(found)
    else:
        for heading, text in sentences(found):
            tell(f"{heading:14}{printable(text)}")
    if found["problems"]:
        raise typer.Exit(1)
