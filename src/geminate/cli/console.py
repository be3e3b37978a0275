"""What every command prints with: errors without traceback, remarks and progress on stderr, JSON on stdout."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from geminate.cli.terminal import unechoed
from geminate.errors import GeminateError

_T = TypeVar("_T")
MAX_MESSAGE = 1000  # characters of a message: names in files can be megabytes
# Control characters but tabs and line ends, what turns the direction of text, and halves of characters.
_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_line = ""  # what was last written to stdout


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors a user can cause into one line and exit code 2; a closed stdout ends quietly."""
    try:
        yield
    except GeminateError as error:
        fail(str(error))
    except BrokenPipeError:
        _drop_stdout()
        raise typer.Exit(141) from None
    except OSError as error:
        fail(_cause(error))
    except KeyboardInterrupt:
        _end_line()
        say("interrupted")
        raise typer.Exit(130) from None


@contextmanager
def last_errors() -> Iterator[None]:
    """`user_errors` for what a command does outside of its own, such as printing its help."""
    try:
        with user_errors():
            yield
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


def _cause(error: OSError) -> str:
    """An error of the system in words; that of stdout is found by what it still holds."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as stuck:
        _drop_stdout()
        return f"cannot write the output: {getattr(stuck, 'strerror', None) or stuck}"
    if error.errno in _UNWRITTEN and error.filename is None:
        return f"cannot write the output: {error.strerror}"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def _drop_stdout() -> None:
    """Send what stdout still holds nowhere: Python would complain again when it flushes it at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_line() -> None:
    """Begin a new line on the terminal, where an answer or the ``^C`` that it echoes stands."""
    if err.is_terminal:
        err.print()
    elif sys.stdout.isatty() and _line and not _line.endswith("\n"):
        write("\n")


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    if err.is_terminal and sys.stdout.isatty() and _line and not _line.endswith("\n"):
        write("\n")
    remark(f"error: {printable(' '.join(message.split()))}")
    raise typer.Exit(2)


def say(message: str) -> None:
    """A remark on stderr."""
    remark(printable(message), style="dim")


def tell(text: str, style: str | None = None) -> None:
    """Text on stdout for people; a terminal gets lines that end between words."""
    out.print(harmless(text), style=style, markup=False, soft_wrap=not out.is_terminal)


def remark(text: str, style: str | None = None) -> None:
    """Text on stderr; a terminal gets lines that end between words."""
    with suppress(OSError):  # a full disk: there is no place left to say so
        err.print(text, style=style, markup=False, soft_wrap=not err.is_terminal)


def printable(text: str) -> str:
    """Text from files made harmless for a terminal, and not endless."""
    shown = harmless(text)
    return shown if len(shown) <= MAX_MESSAGE else f"{shown[:MAX_MESSAGE]} ... ({len(shown):,} characters)"


def write(text: str) -> None:
    """Text on stdout, at once; on a terminal without control characters, which a model may be led to write."""
    global _line
    _line = text or _line
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def harmless(text: str) -> str:
    """Text without what a terminal would act on, which is escaped; tabs, line ends and all letters stay."""
    return _HARMFUL.sub(lambda c: ascii(c[0])[1:-1], text)


def write_json(body: Mapping[str, Any]) -> None:
    """One JSON line on stdout."""
    write(json.dumps(body) + "\n")


class _Count(MofNCompleteColumn):
    """ "3/10", or "3" where nobody knows how many there will be."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn`."""
        return super().render(task) if task.total is not None else Text(f"{int(task.completed)}")


class Bars(Progress):
    """Progress on stderr, gone afterwards: one bar for each part of the work, made when it is first reported.

    Args:
        counted: show "3/10" instead of a percentage. shown: False draws nothing.
    """

    def __init__(self, *, counted: bool = True, shown: bool = True) -> None:
        count = _Count() if counted else TextColumn("{task.percentage:>3.0f} %")
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            count,
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not (shown and err.is_terminal),
        )
        self._parts = dict[str, Any]()
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
        if what not in self._parts:
            self._parts[what] = self.add_task(what, total=total)
        self.update(self._parts[what], description=text or what, completed=done, total=total)


class PromptBar:
    """How far a prompt is, on stderr until the first part of its answer is there; short prompts show nothing.

    Args:
        shown: False draws nothing.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._bars: Bars | None = None

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` tokens are read."""
        if self._bars is None:
            self._bars = Bars(counted=False, shown=self._shown)
            self._bars.start()
        self._bars.part("prompt", done, total, f"read {done:,} of {total:,} tokens")

    def end(self) -> None:
        """Remove it."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def before(self, parts: Iterable[_T]) -> Iterator[_T]:
        """The same parts; the bar ends with the first."""
        try:
            for part in parts:
                self.end()
                yield part
        finally:
            self.end()


def read_stdin() -> str:
    """All of standard input as UTF-8."""
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"standard input is not UTF-8 (byte {error.start}); convert it first, e.g. with iconv")


def read_text(path: Path) -> str:
    """A UTF-8 text file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 (byte {error.start})")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
