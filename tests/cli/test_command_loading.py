"""Commands load what they use; lists, completion, Ctrl-C and closed pipes are the same for all of them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import Any

import pytest
import typer

from geminate.cli import commands
from geminate.cli.app import Bench, Root, Train, app
from geminate.cli.commands import FOREIGN

ROWS = [row for group in (Root, Bench, Train) for row in group.table]
# What one command needs and others need not; importing all of it takes as long as everything else.
HEAVY = ("asyncio", "prompt_toolkit", "rich.markdown", "fastapi", "uvicorn", "torch", "llguidance",
         "huggingface_hub", "geminate.tools", "geminate.server")  # fmt: skip
LIGHT = ("numpy", "tokenizers", "jinja2", "geminate.llm", *HEAVY)


def loaded_by(*args: str, among: tuple[str, ...]) -> str:
    code = f"""
import sys
import typer  # some versions load more of rich than others
of_typer = set(sys.modules)
from geminate.cli.app import app
sys.argv = ["geminate", *{args!r}]
try:
    app()
except SystemExit as ended:
    assert not ended.code, ended.code
print("loaded:", [name for name in {among!r} if name in sys.modules and name not in of_typer])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("args", [("--version",), ("-h",)])
def test_help_and_version_load_hardly_anything(args: tuple[str, ...]) -> None:
    assert loaded_by(*args, among=LIGHT) == "loaded: []"


@pytest.mark.parametrize(
    "args, needed",
    [
        (("generate", "Hi", "-n", "2", "-k", "off"), ()),
        (("info",), ("geminate.tools",)),  # it says how fast the model should be
        (("bench", "-h"), ()),
    ],
)
def test_commands_load_nothing_of_the_others(
    args: tuple[str, ...], needed: tuple[str, ...], packed_cache: object
) -> None:
    assert loaded_by(*args, among=tuple(name for name in HEAVY if name not in needed)) == "loaded: []"


@pytest.mark.parametrize("name, function, summary", ROWS, ids=[row[0] for row in ROWS])
def test_lists_say_what_a_command_says_of_itself(name: str, function: str, summary: str) -> None:
    module, _, attribute = function.partition(":")
    text = getattr(importlib.import_module(module), attribute).__doc__
    assert " ".join(text.split()).startswith(summary)
    assert commands.Command(name, function, summary).loaded.name == name


@pytest.mark.parametrize(
    "line, among",
    [
        ("geminate gen", ["generate"]),
        ("geminate bench ", ["step", "decode"]),
        ("geminate generate --temper", ["--temperature"]),
        ("geminate train drafter --hou", ["--hours"]),
    ],
)
def test_shells_complete(line: str, among: list[str]) -> None:
    env = {**os.environ, "_GEMINATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run([sys.executable, "-m", "geminate"], capture_output=True, text=True, env=env)
    assert done.stdout.split() == among, done.stderr


def test_ctrl_c_while_a_command_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as ended:
        app(["generate", "Hi"])
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "args", [("-h",), ("--version",), ("generate", "-h"), ("generate", "Hi", "-n", "2", "-q"), ("info",),
             ("info", "--json"), ("verify", "--limit", "1", "-n", "2", "--json")]
)  # fmt: skip
def test_a_closed_pipe_ends_every_command_the_same_way(args: tuple[str, ...], packed_cache: object) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([sys.executable, "-m", "geminate", *args], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    remarks = [line for line in done.stderr.splitlines() if not line.startswith("drafter: ")]
    assert (done.returncode, remarks) == (141, [])


def test_options_of_other_programs_get_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    root: Any = typer.main.get_command(app)
    own = {o for p in root.commands["generate"].loaded.params for o in (*p.opts, *p.secondary_opts)}
    assert own & FOREIGN.keys() == {"-c", "--ctx-size"}
    for flag, hint in FOREIGN.items():
        with pytest.raises(SystemExit) as ended:
            app(["serve", flag] if flag in own else ["generate", "Hi", flag])
        assert ended.value.code == 2 and hint[:30] in " ".join(capsys.readouterr().err.split())
