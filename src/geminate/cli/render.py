"""An answer on a terminal as it comes: Markdown block by block, the block that is still growing redrawn."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from geminate.cli.console import harmless, write

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_REDRAWN = 12  # times a second
_SPARED = 2  # lines of the screen that the growing block leaves free


class Printer(Protocol):
    """Prints an answer's parts; used as a context."""

    def __enter__(self) -> Printer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def reasoning(self, text: str) -> None:
        """More of the thought."""
        ...

    def text(self, text: str) -> None:
        """More of the answer."""
        ...


class Plain:
    """Text as it is: for pipes, files and those who want it. Reasoning is left out."""

    def __enter__(self) -> Plain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        write("\n")

    def reasoning(self, text: str) -> None:
        """See `Printer`."""

    def text(self, text: str) -> None:
        """See `Printer`."""
        write(text)


class Rendered:
    """Markdown for people; reasoning dimmed, words wrapped at the terminal's width."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._thought, self._answer = "", ""
        self._live = Live(
            console=console, transient=True, refresh_per_second=_REDRAWN, get_renderable=self._growing,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> Rendered:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thought, answer, self._thought, self._answer = self._thought, self._answer, "", ""
        self._live.stop()
        if thought.strip():
            self.console.print(_dim(thought))
        if answer.strip():
            self.console.print(markdown(answer))

    def reasoning(self, text: str) -> None:
        """See `Printer`."""
        self._thought += harmless(text)
        head, line, self._thought = self._thought.rpartition("\n")
        if line and head.strip():
            self._live.console.print(_dim(head))

    def text(self, text: str) -> None:
        """See `Printer`."""
        if self._thought.strip():
            self._live.console.print(_dim(self._thought), Text(), sep="\n", end="")
        self._thought = ""
        whole, self._answer = split_blocks(self._answer + harmless(text))
        if whole.strip():
            self._live.console.print(markdown(whole))
            self._live.console.print()

    def _growing(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._thought.strip():
            parts.append(_dim(self._thought))
        if self._answer.strip():
            parts.append(markdown(self._answer))
        return _Tail(Group(*parts))


class _Tail:
    """The last lines of something that may be higher than the screen."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.inner, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - _SPARED) :]:
            yield from line
            yield Segment.line()


def split_blocks(text: str) -> tuple[str, str]:
    """What of a text is whole Markdown blocks, up to the last empty line outside of a code block, and the rest.

    A list may have empty lines between its items; printed in parts it looks the same but for its numbers, which each
    item has of its own.
    """
    fence, end, at = "", 0, 0
    for line in text.splitlines(keepends=True):
        at += len(line)
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and fence and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence and not line.strip() and line.endswith("\n"):
            end = at
    return text[:end], text[end:]


def markdown(text: str) -> RenderableType:
    """Text as Markdown whose line ends stay line ends: models write poems and addresses."""
    from rich.markdown import Markdown  # a twentieth of a second that only chats at a terminal need

    lines, fence = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fence = not fence
        lines.append(line if fence or not line.strip() or _FENCE.match(line) else line + "  ")
    return Markdown("\n".join(lines), hyperlinks=False)


def _dim(text: str) -> Text:
    return Text(text.strip("\n"), style="dim")
