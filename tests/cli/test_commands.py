"""The command as a user runs it: streams, exit codes, JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import geminate as package
from geminate.cli.app import app
from support.cli import geminate, refused


def test_version() -> None:
    assert geminate("--version").stdout.strip() == f"geminate {package.__version__}"


def test_generate_streams_text_and_ends_with_one_line_of_figures() -> None:
    done = geminate("generate", "Once upon a time", "--max-tokens", "40", "--temperature", "0", "-k", "4")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 10
    drafter, figures = done.stderr.strip().splitlines()
    assert drafter == "drafter: the embedded pair's own"
    assert re.fullmatch(
        r"40 tokens in \d+\.\d\d s, [\d,]+ a second; \d+ of 40 passes saved"
        r"(; 1 of \d+ rounds without a draft \(last token 1\))?; cut at the limit of 40 tokens "
        r"\(-n, --max-tokens\)",
        figures,
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_first_command_tells_a_story_that_ends(seed: int) -> None:
    done = geminate("generate", "Once upon a time", "--seed", str(seed))
    assert re.fullmatch(r"(Once upon a time|One day), [^\n]+[.!]\n", done.stdout), done.stdout
    assert done.stderr.rstrip().endswith(f"seed {seed}") if seed else "saved" in done.stderr


@pytest.mark.parametrize(("k", "says"), [("off", "no pass saved; speculation off"), ("ngram", "(no match ")])
def test_the_last_line_says_why_rounds_had_no_draft(k: str, says: str) -> None:
    done = geminate("generate", "Once upon a time", "-n", "20", "--seed", "3", "-k", k)
    assert says in done.stderr.splitlines()[-1]


def test_same_text_with_speculation_on_and_off() -> None:
    texts = {
        geminate("generate", "Once upon a time", "-n", "60", "--seed", "11", "-k", k).stdout
        for k in ("off", "1", "4", "16", "auto")
    }
    assert len(texts) == 1


def test_json_and_stdin() -> None:
    done = geminate("generate", "-", "--json", "-n", "12", "-t", "0", "--logprobs", "2", stdin="Hëllo 🌍".encode())
    body = json.loads(done.stdout)
    assert len(body["token_ids"]) <= 12 and len(body["logprobs"]) == len(body["token_ids"])
    assert {"rounds", "accepted", "acceptance_length", "prefill_s", "decode_s"} <= body["stats"].keys()


def test_stop_string() -> None:
    free = geminate("generate", "Once upon a time", "-n", "40", "-t", "0", "-q").stdout
    word = free.split()[6]
    cut = geminate("generate", "Once upon a time", "-n", "40", "-t", "0", "--stop", word).stdout
    assert free.startswith(cut.rstrip("\n")) and word not in cut


def test_info(models: dict[str, Path]) -> None:
    body = json.loads(geminate("info", "--json").stdout)
    assert body["drafter"]["centroid_head"] and body["layers"]["kv_shared"] == 5
    assert body["on_disk_only"]["row_table"] > 0 and body["drafter_note"] == "drafter: the embedded pair's own"
    moe = json.loads(geminate("info", str(models["26B-A4B"]), "--json", "--drafter", "none").stdout)
    assert moe["experts"] == {"count": 8, "top_k": 3} and moe["drafter"] is None and moe["tokenizer"] is None


def test_info_in_sentences_with_whole_paths(models: dict[str, Path]) -> None:
    said = geminate("info", str(models["E2B"])).stdout.splitlines()
    drafter = models["E2B"].with_name("E2B-assistant")
    assert f"model: {models['E2B']}" in said and f"drafter: {drafter}" in said
    assert any(line.startswith("packed weights: /") and line.endswith(".geminate") for line in said)
    lonely = geminate("info", str(models["E2B"]), "--drafter", "none").stdout
    assert "drafter: none, as asked; only text that repeats is drafted (prompt lookup)" in lonely


def said_by(*args: str) -> str:
    """What a command that is refused says, run in this process."""
    done = CliRunner().invoke(app, list(args))
    assert done.exit_code == 2, done.output
    return done.stderr


@pytest.mark.parametrize("alias", ["--model", "-m"])
@pytest.mark.parametrize("command", [("info",), ("verify",), ("eval", "--text", __file__), ("chat",),
                                     ("quantize", "--out", "x"), ("bench", "decode"), ("generate", "Hi")])  # fmt: skip
def test_the_model_has_one_manner(command: tuple[str, ...], alias: str) -> None:
    assert "no such directory: /nowhere/at/all" in said_by(*command, alias, "/nowhere/at/all")
    if command[0] != "generate":
        assert "no such directory: /nowhere/at/all" in said_by(*command, "/nowhere/at/all")
        assert "named twice: /nowhere and --model /there" in said_by(*command, "/nowhere", alias, "/there")


def test_the_server_names_its_model_the_same_way() -> None:
    for given in (("-m", "/nowhere/at/all"), ("--model", "/nowhere/at/all"), ("/nowhere/at/all",)):
        done = geminate("serve", "--port", "0", *given)
        assert done.returncode == 2 and "no such directory: /nowhere/at/all" in done.stderr
    refused("serve", "/nowhere", "-m", "/there", says="named twice")


def test_help_is_short_and_completion_can_be_had() -> None:
    for command in ((), ("generate",), ("serve",), ("bench", "step"), ("train", "drafter")):
        done = CliRunner().invoke(app, [*command, "-h"])
        assert done.exit_code == 0 and "Usage: " in done.output
    # Typer asks the parent process for its shell, and a test's may be none.
    done = geminate("--show-completion", "bash", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert done.returncode == 0 and "complete -" in done.stdout


def test_python_runs_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "geminate", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"geminate {package.__version__}"


def test_verify_the_embedded_pair() -> None:
    done = geminate("verify", "--json", "--max-tokens", "48", "--limit", "3", timeout=600)
    body = json.loads(done.stdout)
    assert done.returncode == 0 and body["identical"] is True
    assert body["prompts"] == 3 and body["runs"] <= 3 * 40 and body["tokens"] == body["runs"] * 48


@pytest.mark.parametrize("size", ["E4B", "12B"])
def test_verify_random_pairs_without_tokenizer(size: str, models: dict[str, Path]) -> None:
    done = geminate("verify", str(models[size]), "--json", "-n", "24", "--weights", "int4", timeout=600)
    assert json.loads(done.stdout)["identical"] is True


def test_verify_on_the_portable_kernels(models: dict[str, Path]) -> None:
    done = geminate("verify", str(models["E2B"]), "--json", "-n", "12", env={"GEMINATE_ISA": "scalar"}, timeout=600)
    assert json.loads(done.stdout)["identical"] is True
