"""The branches for Windows, as far as Linux can run them: what POSIX alone has is taken away from the process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.cli import geminate
from support.serving import Served
from support.simulated_windows import PRELUDE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulation is made of Linux' calls")
SHORT = ("--raw", "-n", "12", "--temperature", "0", "--threads", "2", "-q")


def python(text: str, *args: str) -> str:
    """What ``text`` prints on the simulated system."""
    done = subprocess.run(
        [sys.executable, "-c", f"{PRELUDE}\n{text}", *args], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_simulation_takes_something_away() -> None:
    assert (
        python("import importlib.util, os; print(hasattr(os, 'fork'), hasattr(os, 'getuid'))").split() == ["False"] * 2
    )
    with pytest.raises(AssertionError, match="fcntl"):
        python("import fcntl")


def test_every_module_of_the_package_is_imported() -> None:
    """But for what is POSIX' alone by name, and for training and fleets, whose dependencies are not simulated."""
    found = python(
        "import importlib, pkgutil, geminate\n"
        "alone = ('geminate.grammar.worker', 'geminate.grammar.host', 'geminate.cli.terminal_posix')\n"
        "others = ('geminate.tools.train', 'geminate.fleet', 'geminate.__main')\n"
        "for module in pkgutil.walk_packages(geminate.__path__, 'geminate.'):\n"
        "    if module.name not in alone and not module.name.startswith(others):\n"
        "        importlib.import_module(module.name)\n"
        "        print(module.name)"
    )
    assert len(found.split()) > 200


def test_the_main_job(tmp_path: Path) -> None:
    env = {"GEMINATE_CACHE": str(tmp_path)}
    plain = geminate("generate", "Once upon a time", *SHORT)
    packed = geminate("generate", "Once upon a time", *SHORT, prelude=PRELUDE, env=env)
    mapped = geminate("generate", "Once upon a time", *SHORT, prelude=PRELUDE, env=env)
    assert plain.returncode == packed.returncode == mapped.returncode == 0, packed.stderr + mapped.stderr
    assert plain.stdout == packed.stdout == mapped.stdout
    assert len(list(tmp_path.glob("*"))) >= 2, "packed weights are kept"
    assert not list(tmp_path.glob(".packing-*"))


def test_the_doctor() -> None:
    found = json.loads(geminate("doctor", "--fast", "--json", prelude=PRELUDE).stdout)
    assert found["threads"] == {"count": 2, "why": "2 physical cores"}
    assert found["memory"]["free_bytes"] <= 8 << 30


def test_pipes_get_utf8() -> None:
    env = {"PYTHONIOENCODING": "cp1252"}
    done = geminate("generate", "日本", *SHORT, "--json", prelude=PRELUDE, env=env)
    assert done.returncode == 0, done.stderr


def test_the_server_answers_and_drains(packed_cache: Path, tmp_path: Path) -> None:
    flags = ("--prefix-store", str(tmp_path / "store"), "--audit-log", str(tmp_path / "audit.log"))
    served = Served(*flags, prelude=PRELUDE)
    try:
        served.wait_log("ready")
        body = {"model": "geminate-embedded", "max_tokens": 60, "temperature": 0}
        text = {**body, "prompt": "Once upon a time" * 20}
        grammar = {"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "Hi"}]}
        for route, asked in (("completions", text), ("completions", text), ("chat/completions", {**body, **grammar})):
            answer = httpx.post(f"{served.url}/v1/{route}", json=asked, timeout=60)
            assert answer.status_code == 200, answer.text
        assert any("grammars are compiled in this process" in line["message"] for line in served.log)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0, "".join(served.raw)
        served.wait_log("stopped")
    finally:
        served.process.kill()
        served.process.wait()


AUDIT = """
import sys
from geminate.audit.log import AuditLog
from geminate.audit.options import AuditOptions
from geminate.errors import AuditLogError
log = AuditLog(sys.argv[1], AuditOptions(audit_file_bytes=4096), say=print)
log.start({"run": "x"})
try:
    AuditLog(sys.argv[1], AuditOptions(), say=print)
except AuditLogError as error:
    print("refused:", error)
for i in range(60):
    log.put(lambda i=i: {"type": "request", "n": i, "text": "x" * 100})
assert log.flush(30)
assert log.close()
"""


def test_an_audit_log_is_locked_and_rotated(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    said = python(AUDIT, str(path))
    assert "a log has one writer" in said and "cannot" not in said
    assert len(list(tmp_path.glob("audit.log.*"))) >= 2
    done = geminate("audit", "verify", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
