"""What every command prints and reads with: errors without traceback, remarks on stderr, JSON on stdout."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from geminate.errors import GeminateError

MAX_MESSAGE = 1000  # characters of a message: names in files can be megabytes
MAX_PROMPT = 16 << 20  # bytes of standard input; no context holds more
MAX_TEXT = 256 << 20  # bytes of a file
# Control characters but tabs and line ends, what turns the direction of text, and halves of characters.
_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _Console(Console):
    """rich's, which ends the process itself where a pipe is closed: `user_errors` does so for all commands alike."""

    def on_broken_pipe(self) -> None:
        """See rich."""
        raise BrokenPipeError


out = _Console(highlight=False, emoji=False)
err = _Console(stderr=True, highlight=False, emoji=False)
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
    put(harmless(text) if sys.stdout.isatty() else text)


def put(text: str) -> None:
    """Text on stdout, at once and as it is."""
    global _line
    _line = text or _line
    sys.stdout.write(text)
    sys.stdout.flush()


def harmless(text: str) -> str:
    """Text without what a terminal would act on, which is escaped; tabs, line ends and all letters stay."""
    return _HARMFUL.sub(lambda c: ascii(c[0])[1:-1], text)


def plural(count: int, noun: str) -> str:
    """A number of things: 1 line, 2 lines."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def write_json(body: Mapping[str, Any]) -> None:
    """One JSON line on stdout."""
    write(json.dumps(body) + "\n")


def read_stdin() -> str:
    """All of standard input as UTF-8, if it is no longer than a prompt can be."""
    raw = sys.stdin.buffer.read(MAX_PROMPT + 1)
    return _text(raw, "standard input", MAX_PROMPT)


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """A UTF-8 text file of at most ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    return _text(raw, str(path), limit)


def _text(raw: bytes, what: str, limit: int) -> str:
    if len(raw) > limit:
        fail(f"{what} has more than {limit >> 20} MiB, the most that is read; use a part of it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"{what} is not UTF-8 (byte {error.start}); convert it first, e.g. with iconv")
