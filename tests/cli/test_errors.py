"""A user's mistake: one clear line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from geminate.cli.app import app
from support.cli import geminate, refused
from support.fabricate import make_drafter


def test_no_such_path() -> None:
    refused("generate", "x", "--model", "/nowhere/at/all", says="no such directory: /nowhere/at/all")


def test_not_a_model(tmp_path: Path) -> None:
    refused("generate", "x", "--model", str(tmp_path), says="has no config.json")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    refused("generate", "x", "--model", str(tmp_path), says="model_type 'llama' is not supported")
    (tmp_path / "config.json").write_text("{")
    refused("generate", "x", "--model", str(tmp_path), says="cannot read")


def test_a_hub_id_that_was_not_pulled(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    says = "geminate pull google/gemma-4-E2B-it downloads it"
    refused("generate", "x", "--model", "google/gemma-4-E2B-it", says=says, env=env)


def test_prefix_stores(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    done = geminate("generate", "x", "-n", "1", "--prefix-store", str(file))
    assert done.returncode == 0 and f"{file} is a file, and a prefix store is a directory" in done.stderr
    refused("generate", "x", "--prefix-store-bytes", "1GiB", says="limits a prefix store, and none is named")


def test_prompts_to_verify(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("Once upon a time\n\n" + "a b c d " * 3000 + "\n")
    refused("verify", "--prompts", str(file), says=f"{file}, line 3: the prompt has ")


def test_logs_of_requests(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"GGUF\3\0\0\0" * 100)
    refused("plan", "--log", str(file), says="is no request log: it is a binary file")
    refused("plan", "--requests-per-day", "1e15", says="must be above 0 and at most 1e+10, not 1e+15")


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models["E2B"], tmp_path / "copy"))


def test_truncated_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused("info", str(copy), says="is truncated")
    weights.write_bytes(b"\xff" * 64)
    refused("info", str(copy), says="truncated or corrupted")
    weights.write_bytes(b"")
    refused("info", str(copy), says="only 0 bytes")


def test_missing_extra_and_misshapen_tensors(copy: Path) -> None:
    weights = copy / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, weights)
    refused("info", str(copy), says="misses tensors: layers.1.mlp.up_proj")
    save_file({**tensors, "model.surprise": tensors[name].clone()}, weights)
    refused("info", str(copy), says="model.surprise")
    save_file({**tensors, name: tensors[name][:-1].clone()}, weights)
    refused("info", str(copy), says=f"{name} is [87, 72], expected [88, 72]")


def test_missing_shard(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    refused("info", str(copy), says="lacks model-2.safetensors")


def test_drafter_of_another_size(models: dict[str, Path]) -> None:
    other = str(models["31B"].with_name("31B-assistant"))
    refused("info", str(models["E2B"]), "--drafter", other, says="backbone size 96 in the drafter, 72 in the target")
    refused("info", other, says="is a drafter; name its target")


def test_drafter_of_another_window(models: dict[str, Path], tmp_path: Path) -> None:
    drafter = make_drafter("E2B", tmp_path / "d", text={"sliding_window": 12, "head_dim": 8})
    refused("info", str(models["E2B"]), "--drafter", str(drafter), says="window of sliding_attention 12")
    refused("info", str(models["E2B"]), "--drafter", str(drafter), says="head dim of sliding_attention 8")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("-k", "17"), "--speculation or -k must be"),
        (("-k", "much"), "much"),
        (("--temperature", "-1"), "--temperature or -t must be"),
        (("-t", "nan"), "--temperature or -t must be"),
        (("--top-p", "0"), "--top-p must be a number above 0"),
        (("--top-k", "-3"), "--top-k must be"),
        (("-n", "0"), "--max-tokens or -n must be"),
        (("--weights", "int3"), "--weights must be one of"),
        (("--rope-position", "Q"), "--rope-position must be"),
        (("--threads", "0"), "--threads must be"),
        (("--logprobs", "3"), "--json"),
        (("-k", "2", "--drafter", "none"), "needs a drafter"),
    ],
)
def test_parameters(args: tuple[str, ...], says: str) -> None:
    refused("generate", "x", *args, says=says)


def test_instruction_set() -> None:
    refused("generate", "x", says="GEMINATE_ISA=mmx is not available", env={"GEMINATE_ISA": "mmx"})


def test_prompt_longer_than_the_context() -> None:
    refused("generate", "word " * 3000, says="context holds 2048")


def test_stdin_that_is_not_utf8() -> None:
    refused("generate", "-", stdin=b"abc\xff\xfe", says="not UTF-8 (byte 3)")


def test_unwritable_cache_runs_without_it(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = geminate("generate", "Once", "-n", "4", "-t", "0", env={"GEMINATE_CACHE": str(blocker / "sub")})
    assert done.returncode == 0 and "running without the cache" in done.stderr
    cached = geminate("generate", "Once", "-n", "4", "-t", "0")
    assert done.stdout == cached.stdout


def test_stdout_closed_early() -> None:
    command = [sys.executable, "-c", "from geminate.cli.app import app; app()", "generate", "Once", "-n", "400"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        stderr = process.stderr.read().decode()
        process.wait(60)
    assert "Traceback" not in stderr and "BrokenPipe" not in stderr
    assert process.returncode in (0, 141)


def test_bad_prompts_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"nothing": 1}\n')
    refused("verify", "--prompts", str(path), says="expected JSON with 'prompt' or 'turns'")
    refused("verify", "--prompts", str(tmp_path / "none"), says="cannot read")


PYTHON = re.compile(r"None|True|False|__init__|\b(str|dict|int|float|tuple)\b'?[,;. ]|max_tokens|top_[kp]|min_p|Params")


@pytest.mark.parametrize(
    "args",
    [
        ("generate", "x", "-n", "0"),
        ("generate", "x", "--top-p", "2"),
        ("generate", "x", "--top-k", "-1"),
        ("generate", "x", "--min-p", "2"),
        ("generate", "x", "--repetition-penalty", "0"),
        ("generate", "x", "--logprobs", "99", "--json"),
        ("generate", "x", "--max-context", "1"),
        ("generate", "x", "--threads", "1000"),
        ("generate", "x", "--seed", "-1"),
        ("generate", "x", "--json-schema", "null"),
        ("generate", "x", "--json-schema", "[]"),
        ("generate", "x", "--json-schema", '{"properties": null}'),
        ("generate", "x", "--json-schema", '{"type": null}'),
        ("generate", "x", "--speculation", ""),
        ("chat", "-n", "0"),
        ("chat", "--temp", "-1"),
        ("verify", "-n", "0"),
        ("info", "BROKEN"),
    ],
)
@pytest.mark.parametrize("config", ["null", "[]", "{}", '{"model_type": null}'])
def test_messages_speak_of_what_was_typed(args: tuple[str, ...], config: str, tmp_path: Path) -> None:
    if args != ("info", "BROKEN") and config != "null":
        return
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = CliRunner().invoke(app, [str(tmp_path) if word == "BROKEN" else word for word in args])
    assert done.exit_code == 2 and done.stderr.startswith("error: "), done.output
    assert not PYTHON.search(done.stderr.replace(str(tmp_path), "")), done.stderr
