"""Every command that the documentation shows can be typed: its options exist, and it runs where it can run here.

Models that would have to be downloaded are replaced by the embedded pair, numbers that make it long by small ones.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner

from geminate.cli.app import app
from geminate.families.registry import open_model
from geminate.server.http.auth import load_keys
from support.docs_commands import Shown, curls, shown_commands, simple_commands, words_of
from support.serving import Served

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "deploy", "benchmarks", "recipes")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
COMMANDS = [
    shown
    for page in PAGES
    if page.name != "CHANGELOG.md"
    for shown in shown_commands(page, str(page.relative_to(ROOT)))
]
EMBEDDED = ROOT / "src" / "geminate" / "assets" / "embedded"
TARGET, DRAFTER = str(EMBEDDED / "target"), str(EMBEDDED / "drafter")
MODEL = re.compile(
    r"(google|unsloth)/\S+|/(srv/)?models/\S+|.*\.gguf|.*\.geminate|MODEL|DIR|target|gemma-4-\S+|my-\S+|build/\S+/(target|drafter)"
)
ROOT_COMMAND = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*")  # such as N
SUBSTITUTED = {"MODEL", "DIR", "FILE"}
LIMITS: dict[str, tuple[str, ...]] = {
    "generate": ("-n", "6", "--threads", "1"),
    "chat": ("-n", "6", "--threads", "1"),
    "info": (),
    "doctor": ("--fast",),
    "verify": ("--limit", "1", "-n", "4", "--threads", "1"),
    "eval": ("--max-tokens", "64", "--context", "32", "--threads", "1"),
    "quantize": ("--calibration-tokens", "512", "--threads", "1"),
    "pack": (),
    "serve": (),
    "demo": ("--shape", TARGET, "--seconds", "0.5", "--threads", "1"),
    "bench step": ("--rows", "1,2", "--context", "16", "--repeats", "3", "--threads", "1"),
    "plan": ("--quick", "--no-measure", "--first-token", "60", "--tokens-per-s", "0.1"),
    "bench decode": ("--limit", "1", "--repeats", "1", "--lengths", "1", "-n", "8", "--threads", "1"),
}
"""Commands that run, with what makes them short. `serve` runs up to the socket; training is parsed alone."""
PLAN = (
    "[workload]\nrequests_per_day = 500\nprompt = 40\ncompletion = 6\n"
    '[[model]]\nname = "embedded"\nweights = "int8"\n[[machine]]\nname = "rock-5b"\n[[machine]]\nname = "intel-n100"\n'
)
FILES = {
    "question.txt": "What is 12 + 7?\n",
    "text.txt": "Once upon a time there was a little boy who lived in a quiet town. " * 50,
    "prompts.jsonl": '{"prompt": "What is 12 + 7?"}\n',
    "held_out.jsonl": '{"prompt": "What is 3 + 4?"}\n',
    "keys": "0123456789abcdef0123456789abcdef\n",
    "schema.json": '{"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], '
    '"additionalProperties": false}\n',
    "requests.jsonl": "".join(
        json.dumps({"time": 30 * at, "prompt_tokens": 40, "completion_tokens": 6}) + "\n" for at in range(8)
    ),
    "FILE": PLAN,
    "benchmarks/plan/example.toml": PLAN,
}
"""The files that the pages name in their examples."""


class Unknown(AssertionError):
    """A command that does not exist as it is written."""


def parsed(words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The command's name and its options by name; nothing is run.

    Raises:
        Unknown: no such command, no such option, a value of the wrong type, or too many arguments.
    """
    command: Any = ROOT_COMMAND
    names: list[str] = []
    rest = list(words)
    context: Any = None
    while True:
        context = command.context_class(command, parent=context, info_name="geminate", **command.context_settings)
        try:
            options, rest, _ = command.make_parser(context).parse_args(rest)
        except Exception as error:  # click's, wherever Typer takes it from
            raise Unknown(f"geminate {' '.join(words)}: {getattr(error, 'message', error)}") from None
        if not hasattr(command, "commands"):
            break
        if not rest:
            return " ".join(names), options
        if rest[0] not in command.commands:
            raise Unknown(f"geminate {' '.join(words)}: no such command {rest[0]}")
        names.append(rest[0])
        found, rest = command.commands[rest[0]], rest[1:]
        command = getattr(found, "loaded", found)
    if rest:
        raise Unknown(f"geminate {' '.join(words)}: what is {rest}?")
    for parameter in command.params:
        _check_value(parameter, options.get(parameter.name), context, words)
    return " ".join(names), options


def _check_value(parameter: Any, given: Any, context: Any, words: tuple[str, ...]) -> None:
    """Numbers are numbers; files need not exist here, and capitals stand for something of the reader's."""
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    if not texts or any(PLACEHOLDER.fullmatch(str(text)) for text in texts):
        return
    try:
        parameter.process_value(context, given)
    except Exception as error:
        message = str(getattr(error, "message", error))
        if "does not exist" not in message:
            raise Unknown(f"geminate {' '.join(words)}: {message}") from None


def substituted(words: tuple[str, ...], out: Path) -> list[str]:
    """The words with models that exist here, a new directory behind ``--out``, and files of `FILES`."""
    made: list[str] = []
    before = ""
    for word in words:
        if before in ("--out", "-o"):
            made.append(str(out))
        elif before == "--drafter":
            made.append(DRAFTER if MODEL.fullmatch(word) else word)
        elif before == "--adapter":
            made.append("my-adapter")
        elif before in ("--text", "--calibration", "--prompts", "-f", "--file") and word in ("FILE", "DIR"):
            made.append("prompts.jsonl" if before == "--prompts" else "text.txt")
        elif before in ("--prompt", "--system", "--stop"):
            made.append(word)
        else:
            made.append(TARGET if MODEL.fullmatch(word) else word)
        before = word
    return made


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `FILES`, which is the current one."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    _write_adapter(tmp_path / "my-adapter")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def _write_adapter(directory: Path) -> None:
    """A LoRA adapter of the embedded target that changes one matrix."""
    module = "model.layers.0.mlp.up_proj"
    n, k = open_model(EMBEDDED / "target").tensors[f"{module}.weight"].shape
    parts = {"lora_A": np.full((1, k), 0.01, np.float32), "lora_B": np.full((n, 1), 0.01, np.float32)}
    directory.mkdir()
    save_file({f"base_model.model.{module}.{part}.weight": value for part, value in parts.items()},
              directory / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_there_are_commands_in_the_pages() -> None:
    assert len(COMMANDS) > 40
    assert {"README.md", "docs/faq.md", "docs/training.md", "docs/serving.md"} <= {shown.page for shown in COMMANDS}


@pytest.mark.parametrize("shown", COMMANDS, ids=str)
def test_options_exist(shown: Shown) -> None:
    parsed(shown.words)


def runnable() -> list[Shown]:
    """One of each command that runs here."""
    found: dict[tuple[tuple[str, ...], str | None], Shown] = {}
    for shown in COMMANDS:
        try:
            name, _ = parsed(shown.words)
        except Unknown:
            continue  # reported by `test_options_exist`
        whole = name in LIMITS or (not name and shown.words[0].startswith("-"))
        installs = any(word.endswith("-completion") for word in shown.words)
        only_name = shown.in_text and " ".join(shown.words) == name
        unknown = any(PLACEHOLDER.fullmatch(word) and word not in SUBSTITUTED for word in shown.words)
        if whole and not (installs or only_name or unknown):
            found.setdefault((tuple(substituted(shown.words, Path("out"))), shown.stdin), shown)
    return list(found.values())


@pytest.mark.parametrize("shown", runnable(), ids=str)
def test_runs(shown: Shown, workplace: Path, packed_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr("geminate.cli.serve._leave_quietly", lambda: None)
    monkeypatch.setattr("geminate.server.run.serve", lambda settings, *_: served.append(load_keys(settings)))
    name, options = parsed(shown.words)
    words = substituted(shown.words, workplace / "out")
    limits = list(LIMITS.get(name, ()))
    if name == "plan" and "--machine" in words:
        limits += ["--model", TARGET, "--weights", "int8"]
        limits += [] if "--log" in words else ["--prompt", "40", "--completion", "6"]
    if name == "bench step":
        limits += [] if options.get("layers") else ["--layers", "5"]
        limits += [] if TARGET in words else ["--shape", TARGET]
    if {"--help", "-h"} & set(words):
        limits = []
    stdin = shown.stdin if shown.stdin is not None else "What is 12 + 7?\n"
    done = CliRunner().invoke(app, [*words, *limits], input=stdin)
    assert done.exit_code == 0, f"{shown}\n{done.output}\n{done.exception!r}"
    assert done.output.strip() or served


def test_a_renamed_option_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '    HF_HUB_OFFLINE=1 geminate generate "It\'s" --max-tokenz 4   # a comment\n\n'
        "See `geminate  bench\nstep --weights int4`, `geminate fly` and `geminate-embedded`.\n\n"
        "```sh\necho 'a b' | geminate generate -n many > file && podman run --rm geminate verify \\\n  --limit 2\n```\n"
        "```python\ngeminate serve --nothing\n```\n"
    )
    found = shown_commands(page, "page.md")
    assert [shown.words for shown in found] == [
        ("generate", "It's", "--max-tokenz", "4"),
        ("generate", "-n", "many"),
        ("verify", "--limit", "2"),
        ("bench", "step", "--weights", "int4"),
        ("fly",),
    ]
    assert found[1].stdin == "a b"
    for wrong in (0, 1, 4):
        with pytest.raises(Unknown):
            parsed(found[wrong].words)
    for right in (2, 3):
        assert parsed(found[right].words)[0] in ("verify", "bench step")
    assert simple_commands(words_of("a 'b;c' && d=e f > g"))[1][0] == ["f"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_examples_are_answered(packed_cache: Path) -> None:
    address = "127.0.0.1:8000"
    with Served() as server:
        server.ready()
        asked = 0
        for page in PAGES:
            for words in curls(page, address):
                if any("$" in word for word in words):
                    continue  # a variable of the reader's
                here = [word.replace(address, f"127.0.0.1:{server.port}") for word in words[1:]]
                done = subprocess.run(
                    ["curl", "-sS", "--fail-with-body", "--max-time", "60", *here], capture_output=True, text=True
                )
                assert done.returncode == 0, f"{page.name}: {' '.join(words)}\n{done.stdout}{done.stderr}"
                asked += 1
    assert asked >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_scripts_and_variables_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    scripts = re.findall(r"\b(?:bash|python[\d.]*) ((?:scripts|benchmarks|recipes)/[\w./-]+)", text)
    assert not [script for script in scripts if not (ROOT / script.rstrip(".")).exists()]
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "geminate").rglob("*.py"))
    source += "".join((ROOT / name).read_text(encoding="utf-8") for name in ("CMakeLists.txt", "pyproject.toml"))
    source += "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"\bGEMINATE_(?!SERVE_)[A-Z0-9_]+\b", text)) - {"GEMINATE_GEMMA4_VOCAB"}
    assert not [name for name in named if name not in source]
