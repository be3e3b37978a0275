"""Weights that are truncated in place under a running process: one line says so, and the signal ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from support.serving import Served, chat_body

WATCHED = "from geminate.cli.app import app; app()"
LIBRARY = """
import os, sys
from geminate import LLM
llm = LLM()
llm.generate("A", speculation="off")
for name in os.listdir(os.environ["GEMINATE_CACHE"]):
    if name.endswith(".geminate"):
        os.truncate(os.path.join(os.environ["GEMINATE_CACHE"], name), 4096)
llm.generate("B", speculation="off")
"""


def shorten(cache: Path) -> None:
    packed = list(cache.glob("*.geminate"))
    assert packed
    for file in packed:
        os.truncate(file, 4096)


def test_the_server_says_why_it_dies(tmp_path: Path) -> None:
    with Served(env={"GEMINATE_CACHE": str(tmp_path)}) as server:
        server.ready().wait_log("the packed weights are intact")
        shorten(tmp_path)
        with server.client() as client:
            try:
                client.post("/v1/chat/completions", json=chat_body(max_tokens=8))
            except httpx.HTTPError:
                pass
            else:
                raise AssertionError("an answer from weights that are gone")
        server.wait_end()
        assert server.process.returncode == -signal.SIGBUS
        last = json.loads(server.raw[-1])
    assert last["level"] == "critical" and "shortened while in use" in last["message"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(last["time"])) < timedelta(minutes=5)


def test_a_command_says_so_too(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED, "chat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=0,
        env={**os.environ, "GEMINATE_CACHE": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write("Hello\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        shorten(tmp_path)
        _, said = process.communicate("Tell me a story.\n" * 20, timeout=60)
    assert process.returncode == -signal.SIGBUS
    assert said.splitlines()[-1].startswith("error: a mapped file was shortened while in use")


def test_a_library_leaves_the_signal_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY],
        capture_output=True,
        text=True,
        env={**os.environ, "GEMINATE_CACHE": str(tmp_path)},
    )
    assert done.returncode == -signal.SIGBUS and "shortened" not in done.stderr
