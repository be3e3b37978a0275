"""What every command prints with: errors without traceback, remarks and progress on stderr, JSON on stdout."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from geminate.errors import GeminateError

MAX_MESSAGE = 1000  # characters of a message: names in files can be megabytes
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line ends
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors a user can cause into one line and exit code 2; a closed stdout ends quietly."""
    try:
        yield
    except GeminateError as error:
        fail(str(error))
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    err.print(f"error: {printable(' '.join(message.split()))}", markup=False, soft_wrap=True)
    raise typer.Exit(2)


def say(message: str) -> None:
    """A remark on stderr."""
    err.print(printable(message), style="dim", markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Text from files made harmless for a terminal: control characters but line ends are escaped, lengths limited."""
    shown = "".join(c if c == "\n" or not unicodedata.category(c).startswith("C") else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= MAX_MESSAGE else f"{shown[:MAX_MESSAGE]} ... ({len(shown):,} characters)"


def write(text: str) -> None:
    """Text on stdout, at once; on a terminal without control characters, which a model may be led to write."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def harmless(text: str) -> str:
    """Text without control characters that a terminal would act on; tabs and line ends stay."""
    return _CONTROL.sub(lambda c: ascii(c[0])[1:-1], text)


def write_json(body: Mapping[str, Any]) -> None:
    """One JSON line on stdout."""
    write(json.dumps(body) + "\n")


class Bars(Progress):
    """Progress on stderr, gone afterwards: one bar for each part of the work, made when it is first reported.

    Args:
        counted: show "3/10" instead of a percentage. shown: False draws nothing.
    """

    def __init__(self, *, counted: bool = True, shown: bool = True) -> None:
        count = MofNCompleteColumn() if counted else TextColumn("{task.percentage:>3.0f} %")
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

    def stop(self) -> None:
        """End the bars; before rich 14.3 those that are not drawn would print an empty line here."""
        if not self.disable:
            super().stop()

    def part(self, what: str, done: int, total: int | None, text: str | None = None) -> None:
        """Set the bar of ``what`` to ``done`` of ``total``, labelled ``text`` (default: ``what``)."""
        if what not in self._parts:
            self._parts[what] = self.add_task(what, total=total)
        self.update(self._parts[what], description=text or what, completed=done, total=total)


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
