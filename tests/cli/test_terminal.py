"""What a terminal is given and keeps: typing under a picture, ends of lines, a stdout that cannot be written."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.console import Console

import geminate
from geminate import cli
from geminate.cli import bars as bars_module
from geminate.cli import console
from geminate.cli import terminal_posix as terminal
from geminate.cli.app import ELSEWHERE, app
from geminate.cli.bars import Bars
from geminate.cli.prompt_bar import PromptBar
from geminate.cli.terminal import unechoed


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a terminal; yields the other end."""
    ours, theirs = pty.openpty()
    monkeypatch.setattr(terminal, "_foreground", lambda fd: True)
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


def echoes(fd: int) -> bool:
    return bool(termios.tcgetattr(fd)[3] & termios.ECHO)


@pytest.mark.parametrize("ended", [None, KeyboardInterrupt, ValueError])
def test_nothing_is_echoed_under_a_picture(at_terminal: int, ended: type[BaseException] | None) -> None:
    before, handler = termios.tcgetattr(at_terminal), signal.getsignal(signal.SIGTERM)
    try:
        with unechoed(forget=True):
            assert not echoes(at_terminal)
            os.write(at_terminal, b"typed too early\n")
            with unechoed():
                assert not echoes(at_terminal)
            assert not echoes(at_terminal)
            if ended is not None:
                raise ended
    except (KeyboardInterrupt, ValueError):
        pass
    assert termios.tcgetattr(at_terminal) == before and signal.getsignal(signal.SIGTERM) is handler
    os.write(at_terminal, b"typed now\n")
    assert sys.stdin.readline() == "typed now\n"


def test_bars_echo_nothing(at_terminal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "err", Console(file=io.StringIO(), force_terminal=True))
    with Bars() as bars:
        bars.part("counting", 3, None)
        assert not echoes(at_terminal)
        assert str(bars.columns[2](bars.tasks[0])) == "3"
        bars.part("counting", 3, 10)
        assert str(bars.columns[2](bars.tasks[0])).split("/") == [" 3", "10"]
    assert echoes(at_terminal)
    with Bars(shown=False):
        assert echoes(at_terminal)


def test_the_prompts_bar_ends_with_the_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=said, force_terminal=True, width=100))
    bar = PromptBar()

    def answer() -> Iterator[str]:
        bar(1200, 3000)
        yield "a"
        yield "b"

    parts = bar.before(answer())
    assert next(parts) == "a" and bar._bars is None
    assert "read 1,200 of 3,000 tokens" in said.getvalue()
    assert list(parts) == ["b"]
    said.truncate(0)
    hidden = PromptBar(shown=False)
    hidden(1, 2)
    hidden.end()
    assert not said.getvalue()


def test_work_is_said_in_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "err", Console(file=io.StringIO()))
    for after, want in ((60.0, []), (-1.0, ["counting: 1,003", "counting: 30 of 100", "packing: 30 %"])):
        said.clear()
        monkeypatch.setattr(bars_module, "LINE_S", after)
        with Bars(on_line=said.append) as bars:
            bars.part("counting", 1003, None)
            bars.part("counting", 30, 100)
        with Bars(counted=False, on_line=said.append) as bars:
            bars.part("weights", 30, 100, "packing")
        with Bars(shown=False, on_line=said.append) as bars:
            bars.part("weights", 30, 100)
        assert said == want


SLEEPER = """
import time
from geminate.cli.terminal import unechoed
with unechoed():
    print("asleep", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_restores_the_terminal(number: signal.Signals) -> None:
    child, ours = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", SLEEPER])
    said = b""
    while b"asleep" not in said:
        said += os.read(ours, 1000)
    assert not echoes(ours)
    os.kill(child, number)
    end = time.monotonic() + 30
    while not echoes(ours) and time.monotonic() < end:
        time.sleep(0.05)
    assert echoes(ours)
    os.close(ours)
    os.waitpid(child, 0)


def test_in_the_background_the_terminal_is_left_alone() -> None:
    with unechoed():  # no terminal at all here
        pass
    assert not terminal._foreground(os.open(os.devnull, os.O_RDONLY))


class Full(io.StringIO):
    """A file on a full disk."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    "arguments", [["-h"], ["--version"], ["generate", "-h"], ["bench", "-h"], ["info"], ["generate", "Hi", "-n", "2"]]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_output_that_cannot_be_written_is_one_line(
    arguments: list[str],
    number: int,
    packed_cache: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(number))
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and said[-1] == f"error: cannot write the output: {os.strerror(number)}"
    assert sum(line.startswith("error") for line in said) == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_not_met_again_at_exit(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "geminate", "--version"],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot write the output" in done.stderr


def test_other_errors_of_the_system_name_their_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), console.user_errors():
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")
    assert capsys.readouterr().err == "error: /some/file: Permission denied\n"


@pytest.mark.parametrize("word", ELSEWHERE)
def test_commands_of_other_programs_get_a_hint(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app([word, "x"])
    assert ended.value.code == 2 and ELSEWHERE[word][:40] in " ".join(capsys.readouterr().err.split())


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen_of(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal of 40 columns that shows stdout and stderr."""
    screen = Screen()
    shown = Console(file=screen, force_terminal=True, width=40, highlight=False, emoji=False)
    monkeypatch.setattr(sys, "stdout", screen)
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, shown)
    return screen


def test_remarks_begin_on_a_line_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    with pytest.raises(typer.Exit), console.user_errors():
        console.write("the bed and")
        raise KeyboardInterrupt
    assert "the bed and\n" in screen.getvalue() and "interrupted" in screen.getvalue()
    with pytest.raises(typer.Exit):
        console.write("once")
        console.fail("it broke")
    assert "once\nerror: it broke\n" in screen.getvalue()


@pytest.mark.parametrize("print_it", [console.say, console.tell, console.remark])
def test_lines_end_between_words(print_it: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    words = " ".join(f"word{n}" for n in range(40))
    print_it(f"{words} [b] :cat:")

    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in screen.getvalue().splitlines()]
    assert all(len(line) <= 40 for line in plain)
    assert " ".join(line.strip() for line in plain) == f"{words} [b] :cat:", "no word is broken"


def test_ctrl_c_while_modules_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    cli._uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n"
    code = "import sys, geminate.cli; print(sys.modules.keys() & {'numpy', 'typer'}); raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("set()\n", "interrupted\n", -signal.SIGINT)
    assert all(getattr(geminate, name) is not None for name in geminate.__all__) and "LLM" in dir(geminate)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        geminate.nothing  # noqa: B018
