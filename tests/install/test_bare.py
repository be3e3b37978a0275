"""The main job needs neither compiler nor network: run where both are hidden. `scripts/bare-root` does it in a fresh
Debian root with the wheel; this is what every test run can afford."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make", "ld", "as")


def namespace() -> list[str]:
    """What runs a command in a network and mounts of its own; skips where the system allows none."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    command = ["unshare", "--map-root-user", "--net", "--mount"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.strip()}")
    return command


def hidden() -> list[Path]:
    """Every compiler and build tool on the path."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)] + [Path("/usr/bin")]
    return sorted({(folder / tool).resolve() for folder in folders for tool in TOOLS if (folder / tool).exists()})


def test_no_compiler_and_no_network(tmp_path: Path) -> None:
    enter = namespace()
    tools = hidden()
    empty = tmp_path / "empty"
    empty.touch(0o644)
    hide = "".join(f"mount --bind '{empty}' '{tool}' && " for tool in tools)
    check = " ".join(f"! '{tool}' --version 2> /dev/null &&" for tool in tools)
    job = f"'{sys.executable}' -m geminate generate 'Once upon a time' --raw -n 8"
    network = '[ "$(wc -l < /proc/self/net/dev)" = 3 ]'  # two lines of headings, and loopback
    env = {**os.environ, "GEMINATE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*enter, "sh", "-c", f"{hide} {check} {network} && {job}"], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "token" in done.stderr
