"""Where ``geminate chat`` reads messages from: an editor on a terminal, else lines of standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from geminate.cli.console import fail, say
from geminate.system import directories
from geminate.system.files import NOFOLLOW

if TYPE_CHECKING:  # loaded where there is a terminal
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output

QUOTES = '"""'
LEAVE = "Ctrl-D or /exit leaves"


class Reader(Protocol):
    """Reads one message after the other."""

    def read(self) -> str | None:
        """The next message, "" for none this time, None at the end of input."""
        ...


def make_reader(*, history: bool) -> Reader:
    """An editor if standard input and stderr are a terminal, else a reader of lines.

    Args:
        history: keep what is typed in a file for the next time.
    """
    if sys.stdin.isatty() and sys.stderr.isatty():
        return Editor(history_file() if history else None)
    return Lines()


def joined(lines: list[str]) -> str | None:
    """The message of lines that begin with three quotes; None while the closing ones are missing."""
    text = "\n".join(lines)
    rest = text.strip().removeprefix(QUOTES)
    return quoted(rest.removesuffix(QUOTES)) if rest.endswith(QUOTES) else None


def quoted(text: str) -> str:
    """A message between quotes, which is never a command: one that begins with / gets a space before it."""
    text = text.strip("\n")
    return f" {text}" if text.startswith("/") else text


def trimmed(text: str) -> str:
    """A typed message without space around it, but for the space before / that makes it no command."""
    bare = text.strip()
    return f" {bare}" if bare.startswith("/") and text[0].isspace() else bare


class Lines:
    """Messages of a pipe or a file: a line each, or several between three quotes."""

    def read(self) -> str | None:
        """See `Reader`."""
        lines: list[str] = []
        while True:
            line = self._line()
            if line is None:
                return quoted("\n".join(lines).removeprefix(QUOTES).rstrip()) if lines else None
            lines.append(line)
            if not lines[0].startswith(QUOTES):
                return line
            message = joined(lines)
            if message is not None:
                return message

    def _line(self) -> str | None:
        try:
            raw = sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            return None
        if not raw:
            return None
        try:
            return trimmed(raw.decode("utf-8"))
        except UnicodeDecodeError:
            fail("standard input is not UTF-8; convert it first, e.g. with iconv")


class Editor:
    """Messages typed on a terminal: editing, history, pasted text in one piece, several lines.

    Args:
        path: the history's file; None keeps it for this run only.
        keys, screen: the terminal to use instead of this process's.
    """

    def __init__(self, path: Path | None, *, keys: Input | None = None, screen: Output | None = None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        # The prompt goes to stderr, so that stdout can be a file.
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "  ",
            key_bindings=_keys(),
            history=_history(path),
            reserve_space_for_menu=0,
            input=keys,
            output=create_output(stdout=sys.stderr) if screen is None else screen,
        )

    def read(self) -> str | None:
        """See `Reader`."""
        try:
            text = self._session.prompt()
        except KeyboardInterrupt:
            say(LEAVE)
            return ""
        except EOFError:
            return None
        if text.startswith(QUOTES):
            return joined(text.splitlines()) or ""
        return trimmed(text)


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        text = event.current_buffer.text
        if text.startswith(QUOTES) and joined(text.splitlines()) is None:
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def history_file() -> Path:
    """Where messages are kept: in the user's data directory."""
    return directories.data() / "chat_history"


def _history(path: Path | None) -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | NOFOLLOW, 0o600))
        path.chmod(0o600)  # what people ask is nobody else's business
    except OSError as error:
        say(f"no history is kept: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(str(path))
