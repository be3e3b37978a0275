"""`geminate pack`, and its file in every command that takes a model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geminate.loading.locate import embedded_pair
from support.cache_files import arrays_of, flip
from support.cli import geminate, refused
from support.serving import Served


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair, packed from a copy that is gone."""
    folder = tmp_path_factory.mktemp("packed")
    target, drafter = embedded_pair()
    shutil.copytree(target, folder / "small")
    shutil.copytree(drafter, folder / "small-assistant")
    (folder / "small" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    done = geminate("pack", str(folder / "small"), "-o", str(folder / "small.geminate"), "--json")
    assert done.returncode == 0, done.stderr
    line, made = done.stdout.strip().splitlines()
    assert "small.geminate: " in line and "licence: apache-2.0" in line
    made = json.loads(made)
    assert made["bytes"] == (folder / "small.geminate").stat().st_size and set(made["formats"]) == {"target", "drafter"}
    for name in ("small", "small-assistant"):
        shutil.rmtree(folder / name)
    return folder / "small.geminate"


def test_every_command_takes_it(small: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little fox who lived in a wood. " * 30)
    model = str(small)
    asked = ("Once upon", "-n", "12", "--ignore-eos", "--temperature", "0")
    own = geminate("generate", *asked)
    assert own.returncode == 0
    for args, expected in (
        (("generate", model, *asked), own.stdout),
        (("generate", model, *asked, "--verify-weights"), own.stdout),
        (("info", model), "packed file: target and drafter"),
        (("verify", model, "-n", "4", "--limit", "1"), ""),
        (("bench", "decode", model, "-n", "4", "--limit", "1"), ""),
        (("eval", model, "--text", str(text), "--max-tokens", "64", "--context", "32", "--weights", "int4"), "int4"),
        (("quantize", model, "--out", str(tmp_path / "q"), "--weights", "int4"), "q:"),
        (("pack", model, "-o", str(tmp_path / "again.geminate")), "again.geminate"),
    ):
        done = geminate(*args)
        assert done.returncode == 0, (args, done.stderr)
        assert expected in done.stdout, (args, done.stdout)


def test_info_says_where_it_comes_from(small: Path) -> None:
    done = geminate("info", str(small), "--json")
    packed = json.loads(done.stdout)["packed_file"]
    assert packed["parts"] == ["target", "drafter"] and packed["licence"] == {"name": "apache-2.0"}
    assert packed["origin"]["name"] == "small" and packed["made_by"].startswith("geminate ")
    said = geminate("info", str(small)).stdout
    assert "made of small by geminate" in said and "licence: apache-2.0" in said
    assert "packed together with the target" in said


def test_a_chat_and_a_drafter_of_another_file(small: Path) -> None:
    done = geminate("generate", "Once upon", "-n", "8", "--drafter", str(small), "-k", "3")
    assert done.returncode == 0, done.stderr
    assert f"drafter: {small}/drafter" in done.stderr


def test_a_server_takes_it_and_no_damaged_one(small: Path, tmp_path: Path) -> None:
    env = {"GEMINATE_CACHE": str(tmp_path / "cache")}
    body = {"prompt": "Once upon", "max_tokens": 4, "temperature": 0}
    with Served(str(small), env=env) as server, server.ready().client() as client:
        answer = client.post("/v1/completions", json={"model": "small", **body}).raise_for_status().json()
        assert answer["model"] == "small" and answer["usage"]["completion_tokens"] == 4
    bad = tmp_path / "bad.geminate"
    bad.write_bytes(small.read_bytes())
    array = max(arrays_of(bad).values(), key=lambda one: one["nbytes"])
    flip(bad, array["offset"] + array["nbytes"] // 2)
    with Served(str(bad), env=env) as server:
        assert "is damaged in" in server.wait_log("the model could not be loaded")["error"]
        server.wait_end()
        assert server.process.returncode == 2


def test_messages(small: Path, tmp_path: Path) -> None:
    refused("pack", "-o", str(small), says="exists; name another file, or replace it with --force")
    refused("pack", "-o", str(tmp_path), says="is a directory; name a file")
    refused("pack", "-o", str(tmp_path / "no" / "x.geminate"), says="there is no directory")
    refused("pack", str(tmp_path / "nothing"), "-o", str(tmp_path / "x"), says="no such directory")
    refused("pack", "--weights", "int9", "-o", str(tmp_path / "x"), says="--weights must be one of")
    refused("info", str(tmp_path / "x.geminate"), says=f"no such file: {tmp_path}/x.geminate")
    (tmp_path / "cut.geminate").write_bytes(small.read_bytes()[:-1000])
    refused("info", str(tmp_path / "cut.geminate"), says="is truncated, or no packed file; copy or download it again")
    (tmp_path / "other.geminate").write_bytes(b"x" * 10_000)
    refused("info", str(tmp_path / "other.geminate"), says="is truncated, or no packed file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.geminate", "other.geminate"]


def test_damage_deep_inside_is_one_line(small: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.geminate"
    bad.write_bytes(small.read_bytes())
    array = max(arrays_of(bad).values(), key=lambda one: one["nbytes"])
    flip(bad, array["offset"] + array["nbytes"] // 2)
    refused("generate", str(bad), "Hello", env={"GEMINATE_CACHE": str(tmp_path / "c")}, says=f"{bad} is damaged in")
    refused("generate", str(bad), "Hello", "--verify-weights", says=f"{bad} is damaged in")
    assert bad.exists()


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"


def test_a_full_disk(tmp_path: Path) -> None:
    out = tmp_path / "x.geminate"
    refused("pack", "-o", str(out), prelude=LIMIT, says=f"cannot write {out}: File too large; free some space")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written() -> None:
    refused("pack", "-o", "/proc/x.geminate", says="/proc/x.geminate needs 0.0")


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "x.geminate"
    slow = (
        "import time\nfrom geminate.checkpoint.packed_writer import PackedWriter as W\nreal = W.array\n"
        "def array(self, *a):\n    time.sleep(0.3)\n    return real(self, *a)\nW.array = array\n"
        "from geminate.cli.app import app; app()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "pack", "-o", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not any(path.name.startswith(".x.geminate-") for path in tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    # Another process that wants the same file does not wait for it.
    refused("pack", "-o", str(out), says=f"another process writes {out}; wait for it, or name another file")
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    out = tmp_path / "x.geminate"
    kill = (
        "import os\nfrom geminate.checkpoint.packed_writer import PackedWriter as W\n"
        "W.finish = lambda self: os.kill(os.getpid(), 9)\nfrom geminate.cli.app import app; app()"
    )
    done = subprocess.run([sys.executable, "-c", kill, "pack", "-o", str(out)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    [left] = [path for path in tmp_path.iterdir() if path.name != ".x.geminate.lock"]
    then = time.time() - 120
    os.utime(left, (then, then))
    done = geminate("pack", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.geminate"]
    assert out.stat().st_mode & 0o044 == 0o044 & ~_umask(), "others may read it"


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old
