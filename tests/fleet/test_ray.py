"""A real fleet on Ray: replicas killed with -9 under streams, one that stops answering, one that is refused."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from geminate import LLM, SamplingParams
from support.cli import geminate
from support.fleet_requests import answer, body_of
from support.fleet_up import FleetUp

pytest.importorskip("ray", reason="ray[serve] is not installed: pip install '.[fleet]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own


def test_the_application_is_an_attribute() -> None:
    """As ``serve run geminate.fleet:app`` reads it, without a cluster."""
    from geminate import fleet

    assert type(fleet.app).__name__ == "Application"
    with pytest.raises(AttributeError, match="nothing"):
        fleet.nothing  # noqa: B018


def test_a_taken_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = geminate("fleet", "up", "--port", port)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: cannot listen on 127.0.0.1 port {port}: Address already in use"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, packed_cache: Path) -> Iterator[FleetUp]:
    config = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    config.write_text("[fleet]\nstall_seconds = 3\n[[model]]\nreplicas = 2\nthreads = 1\n")
    with FleetUp("--config", str(config)) as made:
        made.ready()
        made.wait_log("replica ready", 2)
        yield made
        assert made.stop() == 0
        assert "stopped" in [line.get("message") for line in made.log]


def test_listens_on_this_machine_only(fleet: FleetUp) -> None:
    processes = [psutil.Process(fleet.process.pid)]
    processes += processes[0].children(recursive=True)
    assert len(processes) > 4
    listening = {
        connection.laddr
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip.removeprefix("::ffff:") for ip, _ in listening} <= {"127.0.0.1", "::1"}, listening
    assert fleet.port in {port for _, port in listening} and 8265 not in {port for _, port in listening}
    for process in processes:
        if "raylet" in process.name():
            assert process.environ().get("RAY_USAGE_STATS_ENABLED") == "0"


def test_answers_are_those_of_one_engine(fleet: FleetUp) -> None:
    llm = LLM(threads=1)
    body = body_of(0)
    params = SamplingParams(max_tokens=400, temperature=0.0, seed=0, ignore_eos=True)
    assert answer(fleet.url, 0)["texts"][0] == llm.chat(body["messages"], params).text


def test_several_prompts_of_a_request(fleet: FleetUp) -> None:
    lost = fleet.metric("geminate:fleet_lost_streams_total")
    prompts = ["One day", "A fox", "The river"]
    body = {**body_of(0), "prompt": prompts, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "stream": False}
    body = {name: value for name, value in body.items() if name not in ("messages", "stream_options")}
    made = httpx.post(f"{fleet.url}/v1/completions", json=body, timeout=120).raise_for_status().json()
    wanted = LLM(threads=1).generate(prompts, SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))
    assert [choice["text"] for choice in made["choices"]] == [out.text for out in wanted]
    assert fleet.metric("geminate:fleet_lost_streams_total") == lost, "all were found at once"


def test_killed_replicas_leave_no_seam(fleet: FleetUp) -> None:
    numbers = list(range(18))
    whole = {number: answer(fleet.url, number) for number in numbers}
    assert any(one["calls"] for one in whole.values()) and any(one["logprobs"] for one in whole.values())
    rng, stopped = random.Random(7), threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not stopped.wait(rng.uniform(0.4, 1.2)) and len(killed) < 3:
            living = fleet.living()
            if len(living) >= 2:
                victim = rng.choice(living)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        made: dict[int, dict[str, Any]] = {}
        until = time.monotonic() + 60
        while len(killed) < 3 and time.monotonic() < until:
            with ThreadPoolExecutor(9) as pool:
                made.update(zip(numbers, pool.map(lambda n: answer(fleet.url, n), numbers), strict=True))
            assert made == whole
    finally:
        stopped.set()
        killer.join()
    assert len(killed) >= 2
    assert fleet.metric("geminate:fleet_lost_streams_total", outcome="continued") > 0
    assert fleet.metric("geminate:fleet_lost_streams_total", outcome="failed") == 0


def test_a_stopped_replica_is_left(fleet: FleetUp) -> None:
    fleet.until(lambda: fleet.metric("geminate:fleet_replicas") == 2)
    whole = {number: answer(fleet.url, number) for number in range(6)}
    victim = fleet.living()[0]
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(answer, fleet.url, number) for number in range(6)]
        time.sleep(0.2)
        os.kill(victim, signal.SIGSTOP)
        try:
            assert {number: one.result() for number, one in enumerate(running)} == whole
        finally:
            if psutil.pid_exists(victim):
                os.kill(victim, signal.SIGKILL)


def test_a_lost_ingress_is_a_clean_error(fleet: FleetUp) -> None:
    """Streams break off without a last event; requests get an error or an answer; the next ingress serves again."""
    fleet.until(lambda: httpx.get(f"{fleet.url}/health/ready", timeout=5).status_code == 200)
    ingress = []
    for process in psutil.Process(fleet.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # replicas that were killed before
            if "ServeReplica:geminate:ingress" in " ".join(process.cmdline()):
                ingress.append(process)
    assert len(ingress) == 1
    os.kill(ingress[0].pid, signal.SIGKILL)
    seen = set()
    for _ in range(20):
        try:
            seen.add(httpx.get(f"{fleet.url}/v1/models", timeout=30).status_code)
        except httpx.HTTPError:
            seen.add(0)
        time.sleep(0.1)
    assert seen <= {0, 200, 500, 503}
    fleet.until(lambda: httpx.get(f"{fleet.url}/health/ready", timeout=5).status_code == 200)
    assert answer(fleet.url, 1)["tokens"] == 400


def test_a_replica_with_other_bits_is_refused(tmp_path: Path, packed_cache: Path) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text(f'[[model]]\nreplicas = 1\nthreads = 1\nproof = "{"0" * 64}"\n')
    with FleetUp("--config", str(config)) as made:
        assert made.ended() == 2
    last = made.raw[-1]
    assert last.startswith("error: the fleet did not start: replica ") and "its fixed run gives" in last
