"""``geminate show``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from geminate.cli.console import out, printable, say, tell, user_errors, write_json
from geminate.loading.locate import EMBEDDED
from geminate.tools.describe.model import describe
from geminate.tools.describe.needs import LOSS
from geminate.tools.describe.sentences import as_json, format_rows, reasons, sentences, variant_lines


@user_errors()
def show(
    model: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name as for pull, or a path.", show_default="the embedded pair")
    ] = EMBEDDED,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Do not probe this machine: no tokens a second.")
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a model is, what it takes on disk and in memory, and how fast it should be here; nothing is loaded."""
    found = describe(model, measure=not no_measure, on_message=say)
    if json_out:
        write_json(as_json(found))
        return
    for line in sentences(found):
        tell(printable(line))
    if found.formats:
        tell("")
        _table(("--weights", "memory", "quality", "tokens/s", "with drafts"), format_rows(found))
        if any(needs.preset in LOSS for needs in found.formats):
            tell(
                "quality: KL divergence from bf16 in nats and how often the most likely token is the same, of the "
                "embedded pair (docs/quantization.md); a KL below 0.01 is hardly noticeable"
            )
    variants = variant_lines(found)
    if variants:
        tell("\nforms in which it is published:")
        for line in variants:
            tell(line)
    lines = reasons(found)
    if lines:
        tell("")
        for line in lines:
            tell(printable(line))


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(box=None)
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="left" if at == 0 or heading in ("quality", "", "what it is") else "right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
