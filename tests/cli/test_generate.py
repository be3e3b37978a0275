"""``geminate generate``: what goes to the model, and answers in a given form."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from geminate import LLM, Delta, SamplingParams
from geminate.cli.generate import _show
from geminate.cli.inputs import model_and_prompt
from geminate.loading.locate import embedded_pair
from support.cli import geminate, refused
from support.screen import screen

PARAMS = SamplingParams(max_tokens=24, temperature=0.0)
SHORT = ("-n", "24", "-t", "0", "-q")


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> LLM:
    return LLM(threads=1)


def asked(llm: LLM, *messages: str) -> str:
    roles = ["system", "user"][-len(messages) :]
    return llm.chat([{"role": r, "content": m} for r, m in zip(roles, messages, strict=True)], PARAMS).text


def test_the_template_is_used_unless_raw(llm: LLM) -> None:
    assert geminate("generate", "What is 3 + 4?", *SHORT).stdout == asked(llm, "What is 3 + 4?") + "\n"
    raw = geminate("generate", "What is 3 + 4?", "--raw", *SHORT)
    assert raw.stdout == llm.generate("What is 3 + 4?", PARAMS)[0].text + "\n"
    assert raw.stderr == ""
    system = geminate("generate", "Hello", "--system", "Be kind.", *SHORT).stdout
    assert system == asked(llm, "Be kind.", "Hello") + "\n"


def test_raw_text_ends_where_another_would_begin(llm: LLM) -> None:
    params = ("--seed", "1", "-k", "4", "-q")
    story = geminate("generate", "Once upon a time", "--raw", *params).stdout
    assert story.endswith(".\n") and "user" not in story
    on = geminate("generate", "Once upon a time", "--raw", "--ignore-eos", *params).stdout
    assert on.startswith(story.rstrip("\n")) and len(on) > len(story)


def test_one_newline_at_the_end_of_a_pipe_goes(llm: LLM) -> None:
    want = asked(llm, "Tell me a story") + "\n"
    for stdin in (b"Tell me a story\n", b"Tell me a story\r\n", b"Tell me a story"):
        assert geminate("generate", *SHORT, stdin=stdin).stdout == want
    raw = geminate("generate", "-", "--raw", *SHORT, stdin=b"One\n\n").stdout
    assert raw == llm.generate("One\n", PARAMS)[0].text + "\n"


def test_prompts_from_files(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Once upon a time\n")
    assert geminate("generate", "-f", str(tmp_path / "p.txt"), *SHORT).stdout == asked(llm, "Once upon a time") + "\n"
    both = geminate("generate", "Go on:", "-f", "-", *SHORT, stdin=b"Once\n").stdout
    assert both == asked(llm, "Go on:\n\nOnce") + "\n"
    refused("generate", "-f", str(tmp_path / "none"), says="cannot read")
    refused("generate", "-", "-f", "-", says="both name standard input")


def test_answers_in_a_form(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    (tmp_path / "s.json").write_text(json.dumps(schema))
    (tmp_path / "g.lark").write_text('start: "yes" | "no"')
    for given in (json.dumps(schema), str(tmp_path / "s.json")):
        texts = {geminate("generate", "Hello", "--json-schema", given, *SHORT, "-k", k).stdout for k in ("off", "4")}
        assert len(texts) == 1 and isinstance(json.loads(texts.pop())["ok"], bool)
    assert re.fullmatch(r"[a-c]{4}\n", geminate("generate", "Hello", "--regex", "[a-c]{4}", *SHORT).stdout)
    for given in ('start: "yes" | "no"', str(tmp_path / "g.lark")):
        assert geminate("generate", "Hello", "--grammar", given, *SHORT).stdout in ("yes\n", "no\n")
    refused("generate", "x", "--regex", "a", "--grammar", "b: c", says="--regex and --grammar do not go together")
    refused("generate", "x", "--json-schema", "{", says="--json-schema is no JSON")
    refused("generate", "x", "--json-schema", str(tmp_path / "none.json"), says="cannot read")
    refused("generate", "x", "--regex", "(", says="regular expression")


def test_penalties_and_context() -> None:
    plain = geminate("generate", "Once upon a time", *SHORT).stdout
    for flag, value in (("--repetition-penalty", "1.8"), ("--presence-penalty", "2"), ("--frequency-penalty", "2")):
        assert geminate("generate", "Once upon a time", flag, value, *SHORT).stdout != plain, flag
    refused("generate", "x", "--presence-penalty", "3", says="--presence-penalty must be")
    refused("generate", "word " * 40, "--max-context", "32", says="32")


def test_json_has_the_answer() -> None:
    body = json.loads(geminate("generate", "Hello", "--json", *SHORT).stdout)
    assert {"text", "token_ids", "finish_reason", "seed", "stats"} <= body.keys()


def test_models_without_a_template_continue_the_text(tmp_path: Path, llm: LLM) -> None:
    base = shutil.copytree(embedded_pair()[0], tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    said = geminate("generate", str(base), "Once upon a time", "--drafter", "embedded", *SHORT).stdout
    assert said == llm.generate("Once upon a time", PARAMS)[0].text + "\n"
    refused("generate", str(base), "x", "--system", "Be kind.", says="has no chat template")


def test_mistakes_are_named(models: dict[str, Path]) -> None:
    refused("generate", "", says="the prompt is empty")
    refused("generate", stdin=b"\n", says="the prompt is empty")
    refused("generate", "a", "b", "c", says="quote the prompt")
    refused("generate", "--raw", "--system", "x", "y", says="--raw continues the text")
    for option in ("--json-schema", "--regex", "--grammar"):
        refused("generate", "x", option, "", says=f"{option} is empty")


def test_one_word_is_a_model_if_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    name = str(tmp_path / "m")
    monkeypatch.setattr("geminate.cli.inputs.piped", lambda: "piped")
    assert model_and_prompt([name], None, None) == (name, "piped")
    assert model_and_prompt([name, "Hi"], None, None) == (name, "Hi")
    assert model_and_prompt(["Hi"], name, None) == (name, "Hi")
    assert model_and_prompt([name], "other", None) == ("other", name), "with --model it is the prompt"
    assert model_and_prompt(["Hi"], None, None) == (None, "Hi")


def on_a_terminal(*args: str, columns: int = 80) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen(
        [sys.executable, "-m", "geminate", *args], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        said += part
    return process.wait(60), said.decode()


def test_on_a_terminal_nothing_waits_for_input_in_silence(models: dict[str, Path]) -> None:
    code, said = on_a_terminal("generate", str(models["E2B"]))
    assert code == 2 and "is a model: add the prompt" in " ".join(said.split())
    code, said = on_a_terminal("generate")
    assert code == 2 and "no prompt: give a text" in said


def test_ctrl_c_prints_figures_of_what_was_made(packed_cache: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "geminate", "generate", "Once upon a time", "--ignore-eos", "-n", "2000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 130 and (first + rest).endswith(b"\n")
    last = said.decode().splitlines()[-1]
    assert re.fullmatch(r"stopped: \d[\d,]* tokens? in .*passe?s? saved; first token after \d+\.\d\d s", last), last


def test_a_terminal_wraps_at_words_and_echoes_nothing(packed_cache: Path) -> None:
    plain = geminate("generate", "Once upon a time", *SHORT).stdout
    code, said = on_a_terminal("generate", "Once upon a time", *SHORT, columns=30)
    assert code == 0 and " ".join(screen(said.replace("\r", ""), 30)).split() == plain.split()


@pytest.mark.parametrize("ended", [False, True])
def test_nothing_typed_stands_in_an_answer(ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr("geminate.cli.terminal_posix._foreground", lambda fd: True)
    echoed: list[bool] = []

    def echo() -> bool:
        return bool(termios.tcgetattr(ours)[3] & termios.ECHO)

    def deltas() -> Iterator[Delta]:
        os.write(ours, b"typed too early\n")
        echoed.append(echo())
        yield Delta(text="Hi", token_ids=[1])
        if ended:
            raise KeyboardInterrupt

    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        try:
            _show(deltas(), PARAMS, quiet=True, wrapped=True)
        except typer.Exit as left:
            assert left.exit_code == 130
        os.write(ours, b"typed now\n")
        assert stdin.readline() == "typed now\n"
    assert echoed == [False] and echo()
    os.close(ours)


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--regex", "(", "unclosed group"),
        ("--grammar", 'root ::= "yes" | "no"', "the grammar is GBNF"),
        ("--grammar", 'start: "yes" | maybe', "maybe"),
        ("--json-schema", '{"type": "nope"}', "unknown type 'nope'"),
        ("--json-schema", '{"not": {}}', "not"),
        ("--json-schema", "null", "must be a JSON object, not null"),
        ("--json-schema", "[]", "must be a JSON object, not a list"),
    ],
)
def test_grammars_are_checked_before_the_model_is_looked_for(option: str, value: str, says: str) -> None:
    refused("generate", "--model", "/nowhere/at/all", "Hi", option, value, says=says)


@pytest.mark.parametrize("given", [("",), ("  \n",), ("--system", "Be kind.", "")])
def test_an_empty_prompt_is_refused_before_the_model_is_looked_for(given: tuple[str, ...]) -> None:
    refused("generate", "--model", "/nowhere/at/all", *given, says="the prompt is empty")


def test_what_never_ends_is_not_read_for_ever() -> None:
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            [sys.executable, "-m", "geminate", "generate", "-f", "-"], stdin=endless, capture_output=True, text=True
        )
    assert done.returncode == 2 and "standard input has more than 16 MiB" in done.stderr
    refused("generate", "-f", "/dev/zero", says="/dev/zero has more than 16 MiB")
    refused("generate", "Hi", "--json-schema", "/dev/zero", says="/dev/zero has more than 16 MiB")


def test_names_of_other_programs(packed_cache: Path) -> None:
    want = geminate("generate", "Hello", "-t", "0", "-n", "6", "-q").stdout
    assert geminate("generate", "-p", "Hello", "--temp", "0", "--n-predict", "6", "-c", "512", "-q").stdout == want
    assert geminate("generate", "embedded", "--prompt", "Hello", "-t", "0", "-n", "6", "-q").stdout == want
    refused("generate", "a", "b", "-p", "Hello", says="the prompt is given twice")
