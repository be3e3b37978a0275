"""``pull``, ``list``, ``show``, ``rm`` in processes of their own: killed, interrupted, at once, on a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geminate.loading.hub.snapshots import PARTIAL
from geminate.loading.locate import embedded_pair
from support.cli import geminate, refused
from support.fake_hub import FakeHub

BIG = bytes(range(256)) * 8192  # two megabytes


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        target, drafter = embedded_pair()
        made.add("someone/tiny", target)
        made.add("someone/tiny-assistant", drafter)
        made.add("someone/big-GGUF", {"big-Q8_0.gguf": BIG})
        yield made


@pytest.fixture
def env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_HUB_OFFLINE": "", "HF_TOKEN": "",
    }  # fmt: skip


def started(*args: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    code = "from geminate.cli.app import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_part(home: Path, least: int = 1) -> Path:
    """The cut file of a running download, once it has some bytes."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for path in home.glob(f"hub/models--*/blobs/*{PARTIAL}"):
            if path.stat().st_size >= least:
                return path
        time.sleep(0.02)
    raise AssertionError("no download began")


def test_a_model_by_name_from_pull_to_rm(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    refused("generate", "someone/tiny", "Once upon a time", says="geminate pull someone/tiny downloads it", env=env)
    assert not hub.seen, "a name alone asks no hub"
    pulled = geminate("pull", "someone/tiny", env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert "geminate chat someone/tiny talks to it" in pulled.stdout and "tiny-assistant" in pulled.stdout
    requests = len(hub.seen)
    text = geminate("generate", "someone/tiny", "Once upon a time", "-n", "12", "-t", "0", env=env)
    own = geminate("generate", "Once upon a time", "-n", "12", "-t", "0")
    assert text.stdout == own.stdout and "models--someone--tiny-assistant" in text.stderr
    listed = json.loads(geminate("list", "--json", env=env).stdout)
    assert [(m["name"], m["drafter"], m["complete"]) for m in listed["models"]] == [
        ("someone/tiny", False, True), ("someone/tiny-assistant", True, True),
    ]  # fmt: skip
    assert "someone/tiny-assistant" in geminate("list", env=env).stdout
    shown = geminate("show", "someone/tiny", "--no-measure", env=env)
    assert shown.returncode == 0 and "(in the hub cache)" in shown.stdout and "parameters: " in shown.stdout
    again = json.loads(geminate("pull", "someone/tiny", "--json", "-q", env={**env, "HF_HUB_OFFLINE": "1"}).stdout)
    assert again["downloaded_bytes"] == 0
    assert len(hub.seen) == requests, "nothing but pull asks the hub"
    gone = geminate("rm", "someone/tiny", env=env)
    assert gone.returncode == 0 and "removed its drafter someone/tiny-assistant" in gone.stdout
    assert not list((tmp_path / "home" / "hub").glob("models--*"))
    refused("rm", "someone/tiny", says="someone/tiny is not on this machine", env=env)
    assert "no models in" in geminate("list", env=env).stdout


def test_the_catalogue() -> None:
    done = geminate("list", "--catalogue")
    assert done.returncode == 0 and "gemma-4-E2B-it:q4_0" in done.stdout and "unknown" in done.stdout
    rows = json.loads(geminate("list", "--catalogue", "--json").stdout)["models"]
    assert sum(row["default"] for row in rows) == 5 and all(row["licence"] == "Apache-2.0" for row in rows)


def test_killed_and_continued(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    hub.block, hub.pause = 1 << 16, 0.05
    running = started("pull", "someone/big-GGUF", "--drafter", "none", env=env)
    part = wait_for_part(tmp_path / "home", least=1)
    running.kill()
    running.wait(30)
    size = part.stat().st_size
    assert size < len(BIG)
    refused(
        "info", "someone/big-GGUF", says="only a part of someone/big-GGUF is on this machine; geminate pull", env=env
    )
    assert "not whole" in geminate("list", env=env).stdout
    hub.pause = 0.0
    hub.seen.clear()
    done = json.loads(geminate("pull", "someone/big-GGUF", "--drafter", "none", "--json", env=env).stdout)
    assert Path(done["target"]).read_bytes() == BIG
    assert [one.range for one in hub.downloads("someone/big-GGUF/big-Q8_0.gguf")] == [f"bytes={size}-"]


def test_interrupted(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    hub.block, hub.pause = 1 << 16, 0.05
    running = started("pull", "someone/big-GGUF", "--drafter", "none", env=env)
    wait_for_part(tmp_path / "home")
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130 and b"interrupted" in said and b"Traceback" not in said, said
    assert b"the same command continues" in said


def test_two_processes_at_once(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    hub.block, hub.pause = 1 << 16, 0.05
    both = [started("pull", "someone/big-GGUF", "--drafter", "none", env=env) for _ in range(2)]
    for running in both:
        _, said = running.communicate(timeout=120)
        assert running.returncode == 0, said
    assert len(hub.downloads("someone/big-GGUF/big-Q8_0.gguf")) == 1
    assert not list(tmp_path.glob(f"home/hub/models--*/blobs/*{PARTIAL}"))


def test_no_space_left(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    full = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    )
    done = geminate("pull", "someone/big-GGUF", "--drafter", "none", env=env, prelude=full)
    assert done.returncode == 2 and "no space left in" in done.stderr and "the same command continues" in done.stderr
    assert "Traceback" not in done.stderr
    assert geminate("pull", "someone/big-GGUF", "--drafter", "none", env=env).returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pull", "gemma4:e2b"), "did you mean gemma-4-E2B-it?"),
        (("pull", "someone/nothing"), "there is no someone/nothing on 127.0.0.1"),
        (("pull", "someone/big-GGUF:Q4_0"), "someone/big-GGUF has no file Q4_0"),
        (("chat", "gemma-4-E2B-it"), "geminate pull gemma-4-E2B-it downloads it (3.35 GB"),
        (("verify", "hf.co/someone/tiny:Q4_0"), "geminate pull someone/tiny:Q4_0"),
        (("eval", "gemma-4-E2Bit", "--text", __file__), "did you mean gemma-4-E2B-it"),
        (("rm", "gemma-4-31B-it"), "is not on this machine"),
        (("show", "nonsense"), "no such directory: nonsense"),
        (("generate", "Hi", "--drafter", "someone/tiny-assistant"), "geminate pull someone/tiny-assistant"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], says: str, env: dict[str, str]) -> None:
    refused(*words, says=says, env=env)


def test_a_server_of_a_model_that_is_not_here(env: dict[str, str]) -> None:
    done = geminate("serve", "gemma-4-E2B-it:mobile", "--port", "0", env=env)
    assert done.returncode == 2 and "geminate pull gemma-4-E2B-it:mobile downloads it (2.46 GB" in done.stderr


def test_show_of_what_is_not_here(hub: FakeHub, env: dict[str, str]) -> None:
    shown = geminate("show", "gemma-4-E2B-it", "--no-measure", env=env)
    assert shown.returncode == 0, shown.stderr
    for words in (
        "licence Apache-2.0", "download: 3.35 GB, its drafter unknown", "parameters: 4.6 billion",
        " GB in int4", "for the first 1,000 tokens of context", "gemma-4-E2B-it:mobile", "geminate pull gemma-4-E2B-it",
    ):  # fmt: skip
        assert words in shown.stdout, (words, shown.stdout)
    assert not hub.seen, "the catalogue needs no hub"
    body = json.loads(geminate("show", "gemma-4-26B-A4B-it:Q8_0", "--no-measure", "--json", env=env).stdout)
    assert body["download_bytes"] == 26_859_861_728 and body["formats"][0]["weights"] == "int8"
    hub.add("someone/gemma-4-12b-it-tuned-GGUF", {"x-Q4_0.gguf": BIG, "x-Q8_0.gguf": BIG + b"1"}, licence="gemma")
    shown = geminate("show", "someone/gemma-4-12b-it-tuned-GGUF:Q4_0", "--no-measure", env=env).stdout
    assert "licence gemma" in shown and "parameters: 11.9 billion" in shown and "Q8_0 2.1 MB" in shown
    hub.add("someone/other", {"x-Q4_0.gguf": BIG}, licence=None)
    shown = geminate("show", "someone/other", "--no-measure", env=env).stdout
    assert "licence unknown" in shown and "parameters and memory: unknown" in shown
