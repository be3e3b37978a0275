"""``geminate rm``."""

from __future__ import annotations

from typing import Annotated

import typer

from geminate.cli.console import printable, tell, user_errors
from geminate.loading.hub.pulled import drafters_left_over, remove
from geminate.sizes import gigabytes


@user_errors()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names as geminate list shows them.")],
    keep_drafter: Annotated[
        bool, typer.Option("--keep-drafter", help="Keep its drafter, though no other model here uses it.")
    ] = False,
) -> None:
    """Remove pulled models from the hub cache, with drafters that no other model here uses."""
    for name in names:
        drafters = [] if keep_drafter else drafters_left_over(name)
        done = remove(name)
        tell(printable(f"removed {name}: {gigabytes(done.nbytes)}"))
        for drafter in drafters:
            tell(printable(f"removed its drafter {drafter}: {gigabytes(remove(drafter).nbytes)}"))
