"""The command as a user runs it: streams, exit codes, JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import geminate as package
from support.cli import geminate


def test_version() -> None:
    assert geminate("--version").stdout.strip() == f"geminate {package.__version__}"


def test_generate_streams_text_and_ends_with_one_line_of_figures() -> None:
    done = geminate("generate", "Once upon a time", "--max-tokens", "40", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 10
    figures = done.stderr.strip().splitlines()[-1]
    assert re.match(r"40 tokens, \d+ tokens/s, \d+ rounds, acceptance length \d\.\d\d, draft length:rounds ", figures)


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
    free = geminate("generate", "Once upon a time", "-n", "40", "-t", "0").stdout
    word = free.split()[6]
    cut = geminate("generate", "Once upon a time", "-n", "40", "-t", "0", "--stop", word).stdout
    assert free.startswith(cut.rstrip("\n")) and word not in cut


def test_chat_keeps_its_turns_and_knows_its_commands() -> None:
    script = b"What is 3 + 4?\n/help\n/stats\nWhy do you think that?\n/nonsense\n/reset\n/exit\n"
    done = geminate("chat", "-n", "24", "-t", "0", stdin=script)
    assert done.returncode == 0, done.stderr
    assert "/reset" in done.stderr and "rounds" in done.stderr and "unknown command /nonsense" in done.stderr
    assert len(done.stdout.strip()) > 0


def test_info(models: dict[str, Path]) -> None:
    body = json.loads(geminate("info", "--json").stdout)
    assert body["drafter"]["centroid_head"] and body["layers"]["kv_shared"] == 5
    assert body["on_disk_only"]["row_table"] > 0
    moe = json.loads(geminate("info", str(models["26B-A4B"]), "--json", "--drafter", "none").stdout)
    assert moe["experts"] == {"count": 8, "top_k": 3} and moe["drafter"] is None and moe["tokenizer"] is None


def test_verify_the_embedded_pair() -> None:
    done = geminate("verify", "--json", "--max-tokens", "48", "--limit", "3", timeout=600)
    body = json.loads(done.stdout)
    assert done.returncode == 0 and body["identical"] is True
    assert body["prompts"] == 3 and body["runs"] <= 3 * 24 and body["tokens"] == body["runs"] * 48


@pytest.mark.parametrize("size", ["E4B", "12B"])
def test_verify_random_pairs_without_tokenizer(size: str, models: dict[str, Path]) -> None:
    done = geminate("verify", str(models[size]), "--json", "-n", "24", "--weights", "int4", timeout=600)
    assert json.loads(done.stdout)["identical"] is True


def test_verify_on_the_portable_kernels(models: dict[str, Path]) -> None:
    done = geminate("verify", str(models["E2B"]), "--json", "-n", "12", env={"GEMINATE_ISA": "scalar"}, timeout=600)
    assert json.loads(done.stdout)["identical"] is True
