"""The page's demo at real size: a process of its own, one at a time, ended with its connection."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from support.serving import Served

# Stands in for the real command: three steps, then it waits for its end.
SLOW = 'import sys, time; print(\'{\\"type\\": \\"demo.start\\"}\', flush=True); time.sleep(60)'
SHORT = 'print(\'{\\"type\\": \\"demo.start\\"}\'); print(\'no event\'); print(\'{\\"type\\": \\"demo.result\\"}\')'
FAILS = "import sys; print('error: 31B takes 17.0 GB', file=sys.stderr); sys.exit(2)"


def served(program: str, *flags: str, **more: Any) -> Served:
    command = f'import sys; import geminate.server.page.demo as d; d.COMMAND = (sys.executable, "-c", "{program}")'
    return Served(*flags, prelude=command, **more)


def events(response: httpx.Response) -> list[Any]:
    return [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]


def test_events_of_the_command_in_order(packed_cache: Path) -> None:
    with served(SHORT) as server:
        got = events(httpx.post(f"{server.url}/demo", timeout=60))
    assert [json.loads(line)["type"] for line in got[:-1]] == ["demo.start", "demo.result"] and got[-1] == "[DONE]"


def test_an_error_of_the_command_is_the_last_event(packed_cache: Path) -> None:
    with served(FAILS) as server:
        got = events(httpx.post(f"{server.url}/demo", timeout=60))
    assert json.loads(got[0]) == {"type": "demo.error", "message": "31B takes 17.0 GB"} and got[-1] == "[DONE]"


def test_one_at_a_time_and_gone_with_its_client(packed_cache: Path) -> None:
    with served(SLOW) as server:

        def running() -> list[psutil.Process]:
            found = psutil.Process(server.process.pid).children()
            return [p for p in found if "time.sleep(60)" in command(p)]

        def command(process: psutil.Process) -> str:
            try:
                return " ".join(process.cmdline())
            except psutil.NoSuchProcess:  # it has ended, if nobody has waited for it yet
                return ""

        with httpx.stream("POST", f"{server.url}/demo", timeout=60) as first:
            lines = first.iter_lines()  # kept: without it the response is closed
            assert "demo.start" in next(lines)
            second = httpx.post(f"{server.url}/demo", timeout=60)
            assert second.status_code == 409 and "running already" in second.json()["error"]["message"]
            assert len(running()) == 1
        until = time.monotonic() + 20
        while running() and time.monotonic() < until:
            time.sleep(0.05)
        assert not running(), "it ends with the connection"
        with httpx.stream("POST", f"{server.url}/demo", timeout=60) as again:
            lines = again.iter_lines()
            assert "demo.start" in next(lines), "and another may start"
            [process] = running()
            server.process.terminate()
            process.wait(20)


def test_only_for_the_person_at_the_machine(packed_cache: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-the-demo-test\n")
    keys.chmod(0o600)
    for flags in (("--api-key-file", str(keys)), ("--host", "0.0.0.0", "--allow-unauthenticated")):
        with served(SHORT, *flags) as server:
            refused = httpx.post(f"{server.url}/demo", headers={"Authorization": "Bearer a-key-of-the-demo-test"})
        assert refused.status_code == 403 and "`geminate demo` in a terminal" in refused.json()["error"]["message"]
    with served(SHORT) as server:
        foreign = httpx.post(f"{server.url}/demo", headers={"Origin": "https://elsewhere.example"})
        assert foreign.status_code == 403 and "elsewhere.example" in foreign.text
