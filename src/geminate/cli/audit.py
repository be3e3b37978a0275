"""``geminate audit verify``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from geminate.audit.files import files_of
from geminate.audit.lines import is_hash
from geminate.audit.verify import Report, check_hash, verify
from geminate.cli.bars import Bars
from geminate.cli.console import fail, plural, printable, read_text, remark, say, user_errors, write, write_json
from geminate.cli.flags import JsonOpt
from geminate.replacing import replacing

SHOWN = 20  # problems that are printed
LogArg = Annotated[Path, typer.Argument(metavar="FILE", help="The audit log; files that were rotated belong to it.")]
BeginOpt = Annotated[
    str | None,
    typer.Option("--begin", help="The hash that the first line follows, of a log whose oldest files were removed."),
]
MAX_ANCHOR = 1 << 16  # bytes


@user_errors()
def verify_command(
    file: LogArg,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="Hash of a line that was the last one once; repeatable.", show_default=False),
    ] = None,
    anchor: Annotated[
        Path | None,
        typer.Option(
            "--anchor", help="File that holds the head of the last verification; updated if nothing is wrong."
        ),
    ] = None,
    begin: BeginOpt = None,
    json_out: JsonOpt = False,
) -> None:
    """Follow an audit log's chain and name every line that was edited, cut, moved, duplicated or inserted.

    Lines missing at the end can be noticed only against a head that was kept elsewhere: --head or --anchor.
    """
    heads: list[tuple[int | None, str]] = [(None, check_hash(text, "--head")) for text in head or ()]
    if anchor is not None:
        heads += _anchored(anchor)
    report = followed(file, heads=heads, begin=None if begin is None else check_hash(begin, "--begin"))
    if anchor is not None and report.intact and report.head is not None:
        with replacing(os.path.realpath(anchor), ".anchor-") as kept:
            kept.write((json.dumps({"seq": report.head[0], "hash": report.head[1]}) + "\n").encode())
    if json_out:
        write_json(report.as_dict())
    else:
        show(report)
    if not report.intact:
        if json_out:
            remark(f"NOT intact: {plural(report.found, 'problem')}")
        raise typer.Exit(1)


def _anchored(anchor: Path) -> list[tuple[int | None, str]]:
    """The head in an anchor's file; none if the file does not exist yet."""
    if not anchor.exists():
        say(f"{anchor} does not exist yet: it is made with this log's head")
        return []
    try:
        kept = json.loads(read_text(anchor, MAX_ANCHOR))
        if isinstance(kept, dict) and is_hash(kept["hash"]) and type(kept["seq"]) is int:
            return [(kept["seq"], kept["hash"])]
    except (ValueError, KeyError, RecursionError):
        pass
    fail(f"{anchor} is no anchor, which is written by --anchor; name another file")


def followed(file: Path, **more: Any) -> Report:
    """`verify` with its progress on stderr."""
    total = sum(path.stat().st_size for path in files_of(file))
    done = 0
    with Bars(counted=False) as bars:

        def on_bytes(nbytes: int) -> None:
            nonlocal done
            before, done = done, done + nbytes
            if before >> 20 != done >> 20:
                bars.part("chain", done, total)

        return verify(file, on_bytes=on_bytes, **more)


def show(report: Report) -> None:
    """What was found, for people: gaps that the log names, problems, the head."""
    for place, record in report.gaps[:SHOWN]:
        say(f"{place}: gap: {explained(record)}")
    if len(report.gaps) > SHOWN:
        say(f"and {plural(len(report.gaps) - SHOWN, 'gap')} more")
    for problem in report.problems[:SHOWN]:
        remark(printable(str(problem)))
    if report.found > SHOWN:
        remark(f"and {plural(report.found - SHOWN, 'problem')} more; --json lists up to 1,000")
    verdict = "intact" if report.intact else "NOT intact"
    files = plural(len(report.files), "file")
    write(f"{verdict}: {plural(report.lines, 'line')}, {report.requests:,} of requests, in {files}\n")
    if report.head is not None:
        write(f"head: line {report.head[0]}, {report.head[1]}\n")


def explained(record: dict[str, Any]) -> str:
    """A gap that a log names, in words."""
    why = record.get("why")
    if why == "torn":
        return f"a crash cut a line off, of which {record.get('bytes')} bytes are there"
    if why == "crash":
        return "the program had ended without closing the log; requests that were running then have no line"
    if why == "lost":
        return f"records were lost ({record.get('lines')}), because the log could not be written or the disk was slow"
    return str(why)
