"""Progress of long work: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from geminate.cli import console
from geminate.cli.terminal import unechoed

LINE_S = 15.0  # between two lines


def _far(done: int, total: int | None, counted: bool) -> str:
    if not total:
        return f"{done:,}"
    return f"{done:,} of {total:,}" if counted else f"{100 * done // total} %"


class _Count(MofNCompleteColumn):
    """ "3/10", or "3" where nobody knows how many there will be."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn`."""
        return super().render(task) if task.total is not None else Text(f"{int(task.completed)}")


class Bars(Progress):
    """Progress on stderr, gone afterwards: one bar for each part of the work, made when it is first reported.

    Where stderr is no terminal, a line now and then says how far the work is.

    Args:
        counted: show "3/10" instead of a percentage. bytes_shown: show bytes and bytes a second instead.
        shown: False shows nothing.
        on_line: takes the lines.
    """

    def __init__(
        self,
        *,
        counted: bool = True,
        bytes_shown: bool = False,
        shown: bool = True,
        on_line: Callable[[str], None] = console.say,
    ) -> None:
        count: list[ProgressColumn] = [_Count() if counted else TextColumn("{task.percentage:>3.0f} %")]
        if bytes_shown:
            count, counted = [DownloadColumn(), TransferSpeedColumn()], False
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *count,
            TimeRemainingColumn(),
            console=console.err,
            transient=True,
            disable=not (shown and console.err.is_terminal),
        )
        self._parts = dict[str, Any]()
        self._on_line = on_line if shown and self.disable else None
        self._counted, self._last_line = counted, time.monotonic()
        self._terminal = ExitStack()

    def start(self) -> None:
        """Begin to draw; what is typed meanwhile is not shown, since it would shift the bars."""
        if not self.disable:
            self._terminal.enter_context(unechoed())
        super().start()

    def stop(self) -> None:
        """End the bars; before rich 14.3 those that are not drawn would print an empty line here."""
        if not self.disable:
            super().stop()
        self._terminal.close()

    def part(self, what: str, done: int, total: int | None, text: str | None = None) -> None:
        """Set the bar of ``what`` to ``done`` of ``total``, labelled ``text`` (default: ``what``)."""
        if self._on_line is not None and time.monotonic() - self._last_line > LINE_S:
            self._last_line = time.monotonic()
            self._on_line(f"{text or what}: {_far(done, total, self._counted)}")
        if what not in self._parts:
            self._parts[what] = self.add_task(what, total=total)
        self.update(self._parts[what], description=text or what, completed=done, total=total)
