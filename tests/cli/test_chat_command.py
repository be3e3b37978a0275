"""``geminate chat``: commands, a full context, stopped answers, the editor, a terminal, a pipe."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from geminate import LLM, SamplingParams
from geminate.cli.chat import converse
from geminate.cli.prompt import Editor, Lines, history_file
from geminate.cli.render import Plain, Rendered, split_blocks
from geminate.cli.talk import Talk
from support.cli import geminate


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> LLM:
    return LLM(threads=1, max_context=160)


class Script:
    """Messages of a list."""

    def __init__(self, *messages: str) -> None:
        self.messages = list(messages)

    def read(self) -> str | None:
        return self.messages.pop(0) if self.messages else None


class Talked:
    """A conversation in this process, and what it printed."""

    def __init__(self, llm: LLM, capsys: pytest.CaptureFixture[str], max_tokens: int = 16) -> None:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        self.session = llm.session()
        self.talk = Talk(self.session, params, "4", printer=Plain)
        self.capsys = capsys

    def say(self, *messages: str) -> tuple[str, str]:
        """Answers, and remarks."""
        self.capsys.readouterr()
        converse(self.talk, Script(*messages))
        printed = self.capsys.readouterr()
        return printed.out, printed.err


@pytest.fixture
def talk(llm: LLM, capsys: pytest.CaptureFixture[str]) -> Talked:
    return Talked(llm, capsys)


def test_a_pipe_needs_no_terminal() -> None:
    done = geminate("chat", "-t", "0", "-n", "16", stdin=b"Hello\n/stats\n")
    assert done.returncode == 0 and done.stdout.strip()
    assert re.search(r"passe?s? saved", done.stderr)
    assert "> " not in done.stderr and "\x1b" not in done.stdout + done.stderr
    code = "import sys; sys.modules['prompt_toolkit'] = None; from geminate.cli.app import app; app()"
    bare = subprocess.run(
        [sys.executable, "-c", code, "chat", "-t", "0", "-n", "16"], input=b"Hello\n", capture_output=True
    )
    assert bare.returncode == 0 and bare.stdout.decode().strip() == done.stdout.strip()


def test_several_lines_in_a_pipe_are_one_message() -> None:
    one = geminate("chat", "-t", "0", "-n", "16", stdin=b'"""\nTell me\na story\n"""\n/tokens\n')
    other = geminate("chat", "-t", "0", "-n", "16", stdin=b'"""Tell me\na story"""\n/tokens')
    assert one.stdout == other.stdout and one.stderr == other.stderr and one.stdout.count("\n") == 1


def test_commands(talk: Talked, tmp_path: Path) -> None:
    answer, _ = talk.say("Hello")
    assert answer.strip() and len(talk.session.messages) == 2
    assert talk.say("/retry")[0] == answer and len(talk.session.messages) == 2
    assert "passes saved" in talk.say("/stats")[1]
    assert re.search(r"\d+ of 160 tokens of the context are used \(\d+ %\)", talk.say("/tokens")[1])
    talk.say("/system Be kind.")
    assert talk.session.messages[0] == {"role": "system", "content": "Be kind."}
    talk.say("/reset")
    assert re.match(r"[1-9]\d* of 160 tokens", talk.say("/tokens")[1]), "the system message takes some"
    assert "1 message;" in talk.say(f"/save {tmp_path}/s.json", f"/load {tmp_path}/s.json")[1]
    talk.say("Hello")
    assert talk.say("/?") == talk.say("/help")
    assert "system message: none" in talk.say("/system -")[1]
    file = tmp_path / "talk.json"
    assert "2 messages written" in talk.say(f"/save {file}")[1]
    assert json.loads(file.read_text())["messages"] == talk.session.messages
    kept = list(talk.session.messages)
    assert "forgotten" in talk.say("/reset")[1] and talk.session.messages == []
    assert "2 messages" in talk.say(f"/load {file}")[1] and talk.session.messages == kept
    for word in ("/exit", "/quit", "/bye", "exit", "quit"):
        assert talk.say(word, "Hello") == ("", "")


def test_settings(talk: Talked) -> None:
    assert "max_tokens         3" in talk.say("/set max_tokens 3")[1]
    answer, remarks = talk.say("Once upon a time")
    assert "(cut at the limit of 3 tokens (/set max_tokens N raises it))" in remarks and answer.strip()
    assert "temperature        0.5" in talk.say("/set temperature 0.5")[1]
    assert "the model's own" in talk.say("/set temperature default")[1]
    assert talk.say("/set")[1].count("\n") == 11
    for wrong, says in (
        ("/set temperature hot", "must be a number"),
        ("/set top_p 7", "top_p"),
        ("/set speculation much", "speculation"),
        ("/set thinking maybe", "on, off or auto"),
        ("/set colour red", "no setting colour"),
    ):
        assert says in talk.say(wrong)[1], wrong
    talk.say("/set thinking off", "/set speculation ngram")
    assert talk.session.enable_thinking is False and talk.talk.speculation == "ngram"


def test_mistakes_do_not_end_the_conversation(talk: Talked, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"messages": [{"role": "user"}]}')
    for line in ("/retry", "/save", "/load", f"/load {tmp_path}/none", f"/load {tmp_path}/bad.json",
                 f"/load {tmp_path}/odd.json", f"/save {tmp_path}/no/where.json"):  # fmt: skip
        assert talk.say(line)[1].startswith("error: "), line
    assert talk.say("Hello")[0].strip()


def test_a_line_that_begins_with_a_slash(talk: Talked) -> None:
    assert "unknown command /foo: /help lists them" in talk.say("/foo bar")[1] and talk.session.messages == []
    for path in ("/usr/bin/python what is this?", "/etc", "/home/me/notes.txt", " /foo"):
        talk.say(path)
        assert talk.session.messages[-2]["content"] == path
        talk.session.reset()


def test_a_full_context_does_not_end_it(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talked(llm, capsys, max_tokens=30)
    remarks = ""
    for number in range(20):
        _, remarks = talk.say(f"Hello, number {number}")
        if "this would be" in remarks:
            break
    assert re.search(r"this would be \d+ tokens, and it holds 160.*/compact.*/reset", remarks)
    before = list(talk.session.messages)
    answer, said = talk.say("/compact")
    assert re.match(r"\d+ messages dropped; \d+ of 160 tokens", said) and answer.strip(), "the message is sent then"
    assert talk.session.messages[-2]["content"] == f"Hello, number {number}"
    assert talk.session.messages[0] in before
    assert "your message is too long" in talk.say("/reset", "word " * 200)[1]
    assert talk.say("Hello")[0].strip()


def test_one_turn_that_fills_the_context_can_be_dropped(talk: Talked) -> None:
    talk.session.load([{"role": "user", "content": "word " * 120}, {"role": "assistant", "content": "No."}])
    before = list(talk.session.messages)
    _, said = talk.say("/compact")
    assert re.search(r"0 messages dropped; the last turn alone takes 1\d\d tokens, .*it stays, /reset forgets", said)
    assert talk.session.messages == before
    assert "the context is full" in talk.say("And then? " * 12)[1]
    answer, said = talk.say("/compact")
    assert "the last turn alone takes" in said and "it went too" in said
    assert answer.strip() and len(talk.session.messages) == 2


def test_no_more_than_all_of_the_context_is_used(talk: Talked, monkeypatch: pytest.MonkeyPatch) -> None:
    for used, says in (
        (159, "159 of 160 tokens of the context are used (99 %)"),
        (160, "160 of 160 tokens of the context are used (100 %)"),
        (162, "the conversation takes 162 tokens, and the context holds 160: it is full"),
    ):
        monkeypatch.setattr(type(talk.session), "context_used", used)
        assert says in talk.say("/tokens")[1]


def test_nothing_is_echoed_into_an_answer(talk: Talked, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr("geminate.cli.terminal_posix._foreground", lambda fd: True)
    echoed: list[bool] = []

    def echo() -> bool:
        return bool(termios.tcgetattr(ours)[3] & termios.ECHO)

    class Seen(Plain):
        def text(self, text: str) -> None:
            echoed.append(echo())

    talk.talk.printer = Seen
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        talk.say("Hello")
        assert echoed and not any(echoed) and echo()
    os.close(ours)


def test_a_stopped_answer_has_figures_and_stays(talk: Talked, monkeypatch: pytest.MonkeyPatch) -> None:
    real = talk.session.stream

    def stopped(*args: Any, **more: Any) -> Iterator[Any]:
        deltas = real(*args, **more)
        yield next(deltas)
        deltas.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.session, "stream", stopped)
    _, said = talk.say("Once upon a time", "/stats")
    assert "(stopped)" in said and re.search(r"stopped: \d+ tokens? in .* s.*; first token after", said)
    monkeypatch.undo()
    assert [turn["role"] for turn in talk.session.messages] == ["user", "assistant"]
    assert talk.say("Hello")[0].strip()


LONG = "x" * 20_000


@pytest.mark.parametrize(
    "typed",
    [
        [("Hello\r", "Hello")],
        [('"""one\rtwo\r"""\r', "one\ntwo"), ("next\r", "next")],
        [("one\x1b\rtwo\r", "one\ntwo")],
        [("\x1b[200~def f():\n    return 1\n\x1b[201~\r", "def f():\n    return 1")],
        [("Helo\x1b[Dl\r", "Hello")],
        [(f"\x1b[200~{LONG}\x1b[201~\r", LONG)],
        [("first\r", "first"), ("\x1b[A\r", "first")],
        [("oops\x03", ""), ("Hello\r", "Hello")],
        [(" /reset\r", " /reset"), ("/reset \r", "/reset"), ('"""/reset"""\r', " /reset")],
    ],
    ids=["line", "quotes", "alt-enter", "paste", "editing", "long", "history", "ctrl-c", "slash"],
)
def test_the_editor(typed: list[tuple[str, str]], tmp_path: Path) -> None:
    with create_pipe_input() as pipe:
        editor = Editor(tmp_path / "new" / "history", keys=pipe, screen=DummyOutput())
        for keys, message in typed:
            later = threading.Timer(0.5, pipe.send_text, [keys])  # as typed: the history is loaded by then
            later.start()
            assert editor.read() == message
            later.join()
        pipe.send_text("\x04")
        assert editor.read() is None
    kept = tmp_path / "new" / "history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("typed", "messages"),
    [
        (" /reset\n", [" /reset"]),
        ("\t /foo bar \n/foo \n", [" /foo bar", "/foo"]),
        ("  Hello  \n\n", ["Hello", ""]),
        ('"""\n/reset\n"""\n', [" /reset"]),
        ('"""/reset', [" /reset"]),
    ],
)
def test_a_space_before_a_slash_makes_a_message(
    typed: str, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    reader = Lines()
    assert [reader.read() for _ in messages] == messages and reader.read() is None


def test_the_history_is_kept_in_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history_file() == tmp_path / "geminate" / "chat_history"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert history_file().is_relative_to(Path.home())
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with create_pipe_input() as pipe:
        Editor(tmp_path / "link", keys=pipe, screen=DummyOutput())
    assert not (tmp_path / "elsewhere").exists(), "a link is not followed"


ANSWER = "Two things:\n\n- one\n- two\n\n```python\nx = 1\n\ny = 2\n```\n\nRoses are red\nViolets are blue\n"


def test_blocks_end_at_empty_lines_outside_of_code() -> None:
    for cut in range(len(ANSWER) + 1):
        whole, rest = split_blocks(ANSWER[:cut])
        assert whole + rest == ANSWER[:cut] and whole.count("```") % 2 == 0


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_markdown_is_rendered_on_a_terminal(size: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=30, height=10, _environ={"TERM": "xterm"})
    with Rendered(console) as printer:
        printer.reasoning("Let me think\nabout it. ")
        for at in range(0, len(ANSWER), size):
            printer.text(ANSWER[at : at + size])
        printer.text("\n" + "word " * 12 + "\x1b]0;title\x07")
    shown = screen.getvalue()
    assert "\x1b]0" not in shown, "what a model writes controls no terminal"
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    for line in (" • one", "Roses are red", "Violets are blue", "x = 1", "y = 2"):
        assert any(found.strip() == line.strip() for found in last.splitlines()), line
    assert "```" not in last and "\x1b[2m" in shown
    assert max(len(found.rstrip()) for found in last.splitlines()) <= 40, "words wrap at the width"


PROMPT = "\x1b[?2004h"  # pasting is switched on where a message is awaited


class Terminal:
    """``geminate chat`` at a pseudo-terminal."""

    def __init__(self, *flags: str, home: Path) -> None:
        self.ours, theirs = pty.openpty()
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "geminate", "chat", "-t", "0", *flags],
            stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
            env={**os.environ, "XDG_DATA_HOME": str(home), "TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)

    def until(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < end, self.said
            ready, _, _ = select.select([self.ours], [], [], 1)
            if ready:
                part = ""
                with contextlib.suppress(OSError):
                    part = os.read(self.ours, 65536).decode(errors="replace")
                assert part or text in self.said, self.said
                if "\x1b[6n" in part:
                    self.type("\x1b[1;1R")  # where the cursor is, as a terminal answers
                self.said += part

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def wait(self) -> int:
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end, self.said
            with contextlib.suppress(OSError):
                if select.select([self.ours], [], [], 0.1)[0]:
                    self.said += os.read(self.ours, 65536).decode(errors="replace")
        return self.process.returncode


def test_at_a_terminal(packed_cache: Path, tmp_path: Path) -> None:
    terminal = Terminal("-n", "2000", "--max-context", "2000", home=tmp_path)
    terminal.until(PROMPT)
    assert "drafter: the embedded pair's own" in terminal.said and "/help lists the commands" in terminal.said
    terminal.said = ""
    terminal.type("Tell me a story\r")
    terminal.until(PROMPT)
    assert re.search(r"(Once|One day)", terminal.said)
    terminal.said = ""
    terminal.type("/stats\r")
    terminal.until("tokens in")
    terminal.until(PROMPT)
    terminal.said = ""
    terminal.type("\x03")
    terminal.until("Ctrl-D or /exit leaves")
    terminal.until(PROMPT)
    terminal.type("\x04")
    assert terminal.wait() == 0 and "Traceback" not in terminal.said
    kept = tmp_path / "geminate" / "chat_history"
    assert "Tell me a story" in kept.read_text() and stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_ctrl_c_stops_an_answer_at_a_terminal(packed_cache: Path, tmp_path: Path) -> None:
    terminal = Terminal("-n", "1900", "-k", "off", "--no-history", "--plain", home=tmp_path)
    terminal.until(PROMPT)
    terminal.said = ""
    # Greedy, it repeats itself to the end of the context.
    terminal.type("I like to read books\r")
    terminal.until("not sure")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.until("(stopped)")
    terminal.said = ""
    terminal.type("/stats\r")
    terminal.until("stopped: ")
    terminal.type("/exit\r")
    assert terminal.wait() == 0 and "Traceback" not in terminal.said
    assert not (tmp_path / "geminate").exists()
