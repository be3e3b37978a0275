"""``geminate audit`` and ``geminate generate --audit-log`` as a user runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geminate.audit.verify import verify
from geminate.cli.app import app
from support.audit_logs import lines_of, records_of, write_log
from support.cli import REMARKS, geminate

GENERATE = ("generate", "Once upon a time", "-n", "12", "-t", "0.9", "-q")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, packed_cache: Path) -> Path:
    """A log of four generations."""
    path = tmp_path_factory.mktemp("log") / "audit.log"
    for seed in ("1", "2", "3"):
        done = geminate(*GENERATE, "--seed", seed, "--audit-log", str(path), "--audit-content", "ids")
        assert done.returncode == 0, done.stderr
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    more = ("--json-schema", schema, "--audit-content", "requests", "--audit-log", str(path))
    assert geminate(*GENERATE, "--seed", "4", *more).returncode == 0
    return path


def test_generate_writes_what_it_answered(log: Path) -> None:
    found = [record for record in records_of(log) if record["type"] == "request"]
    assert len(found) == 4 and verify(log).intact and not verify(log).gaps
    done = geminate(*GENERATE, "--seed", "1", "--json")
    assert found[0]["runs"][0]["choices"][0]["ids"] == json.loads(done.stdout)["token_ids"]
    assert (
        "body" not in found[0] and "Once upon a time" in found[3]["body"] and "source" in found[3]["runs"][0]["grammar"]
    )


def test_replay(log: Path) -> None:
    done = geminate("audit", "replay", str(log), "-k", "3", "--threads", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the same: 4 lines, ")
    sampled = geminate("audit", "replay", str(log), "--sample", "2", "--json")
    assert json.loads(sampled.stdout)["same"] == 2 and "--seed" in sampled.stderr
    rest = geminate("audit", "replay", str(log), "--from", str(records_of(log)[4]["seq"]), "--json")
    assert json.loads(rest.stdout)["same"] == 3


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_replay_with_another_processor(isa: str, log: Path) -> None:
    done = geminate("audit", "replay", str(log), "--json", env={"GEMINATE_ISA": isa})
    if done.returncode == 2 and "does not have" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0 and json.loads(done.stdout)["same"] == 4, done.stderr


def test_replay_with_other_weights_and_other_tokens(log: Path, tmp_path: Path) -> None:
    other = geminate("audit", "replay", str(log), "--weights", "int4")
    assert other.returncode == 2 and "no line of" in other.stderr and "other weights (4)" in other.stderr
    forced = geminate("audit", "replay", str(log), "--weights", "int4", "--force", "--json")
    assert forced.returncode == 1 and json.loads(forced.stdout)["differ"] > 0
    kv = geminate("audit", "replay", str(log), "--kv", "int8")
    assert kv.returncode == 2 and "another KV format (4)" in kv.stderr


def test_an_edited_log_is_not_passed_off_as_right(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = lines_of(log)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"seed":1', b'"seed":9'), *lines[2:]]))
    done = geminate("audit", "verify", str(path))
    assert done.returncode == 1 and f"{path}, line 2: edited" in done.stderr
    assert done.stdout.startswith("NOT intact: 11 lines")
    done = geminate("audit", "replay", str(path))
    assert done.returncode == 1 and "NOT intact" in done.stderr and done.stdout.startswith("the same: 3 lines")


def test_verify_and_its_anchor(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.log", tmp_path / "anchor"
    lines = write_log(path, 5)
    head = json.loads(lines[-1])["hash"]
    done = geminate("audit", "verify", str(path), "--anchor", str(anchor))
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["intact: 7 lines, 5 of requests, in 1 file", f"head: line 6, {head}"]
    assert json.loads(anchor.read_text()) == {"seq": 6, "hash": head}
    path.write_bytes(b"".join(lines[:-2]))
    cut = geminate("audit", "verify", str(path), "--anchor", str(anchor), "--json")
    body = json.loads(cut.stdout)
    assert cut.returncode == 1 and not body["intact"] and [p["what"] for p in body["problems"]] == ["head"]
    assert json.loads(anchor.read_text())["seq"] == 6  # kept, since something is wrong
    assert geminate("audit", "verify", str(path)).returncode == 0
    assert geminate("audit", "verify", str(path), "--head", head).returncode == 1
    path.write_bytes(b"".join(lines))
    write_log(path, 3)
    assert geminate("audit", "verify", str(path), "--anchor", str(anchor), "--head", head.upper()).returncode == 0
    assert json.loads(anchor.read_text())["seq"] == 11


def test_gaps_are_named(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b"".join(write_log(path, 3))[:-150])
    write_log(path, 1)
    done = geminate("audit", "verify", str(path))
    assert done.returncode == 0 and "gap: a crash cut a line off, of which" in done.stderr


def test_a_generation_that_is_stopped_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    words = [*GENERATE[:2], "-n", "2000", "--ignore-eos", "-t", "1", "--seed", "1", "-k", "off", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from geminate.cli.app import app; app()", *words, "--audit-log", str(path),
         "--audit-content", "ids"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and b"stopped: " in said
    report = verify(path)
    assert report.intact and not report.gaps and report.requests == 1
    [choice] = records_of(path)[1]["runs"][0]["choices"]
    assert choice["finish"] == "abort" and 0 < choice["tokens"] < 2000
    assert geminate("audit", "replay", str(path)).stdout == f"the same: 1 line, {choice['tokens']:,} tokens\n"


def test_replay_takes_each_line_with_its_own_formats(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for kv, seed in (("f16", "1"), ("int8", "2"), ("f16", "3")):
        more = ("--audit-log", str(path), "--audit-content", "ids", "--kv", kv, "--seed", seed)
        assert geminate(*GENERATE, *more).returncode == 0
    done = geminate("audit", "replay", str(path), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["same"] == 3, done.stderr
    one = json.loads(geminate("audit", "replay", str(path), "--kv", "int8", "--json").stdout)
    assert one["same"] == 1 and one["skipped"] == {"another KV format": 2}


def refused(*args: str, says: str) -> None:
    """The command, run in this process, ends with code 2 and one line behind those about a model that was loaded."""
    done = CliRunner().invoke(app, list(args))
    lines = [line for line in done.stderr.splitlines() if not line.startswith(REMARKS)]
    assert done.exit_code == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert says in lines[0] and not done.stdout, lines


def test_what_is_no_log(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("hello\n")
    for command in ("verify", "replay"):
        refused("audit", command, str(file), says="no audit log: no line of it is one")
        refused("audit", command, str(tmp_path / "none"), says="there is no audit log")
        refused("audit", command, str(tmp_path), says="no regular file")
    write_log(tmp_path / "log", 0)
    refused("audit", "replay", str(tmp_path / "log"), says="has no line of a request")
    refused("audit", "verify", str(tmp_path / "log"), "--head", "abc", says="64 hexadecimal digits")
    refused("audit", "verify", str(tmp_path / "log"), "--anchor", str(file), says="is no anchor")
    write_log(tmp_path / "log", 2)
    refused("audit", "replay", str(tmp_path / "log"), "-k", "99", says="--speculation or -k")
    refused("audit", "replay", str(tmp_path / "log"), "--seed", "1", says="--sample")
    refused("audit", "replay", str(tmp_path / "log"), says="could be replayed")
    refused(
        "audit", "replay", str(tmp_path / "log"), "--requests", str(file), says="line 1: expected JSON with prompt_ids"
    )
    refused(*GENERATE, "--audit-log", str(file), says="is no audit log")
    refused(*GENERATE, "--audit-log", str(tmp_path / "x"), "--audit-content", "all", says="--audit-content")
    assert not (tmp_path / "x").exists()
