"""A real fleet that changes under its streams: slow replicas, updates, scaling, nodes, other weights, its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import geminate
from support.fleet_requests import answer, body_of
from support.fleet_up import PATIENCE_S, FleetUp

pytest.importorskip("ray", reason="ray[serve] is not installed: pip install '.[fleet]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
EMBEDDED = Path(geminate.__file__).parent / "assets" / "embedded"
NUMBERS = range(6)
LONG = "GEMINATE_FLEET_LONG"
long = pytest.mark.skipif(not os.environ.get(LONG), reason=f"two minutes each on two idle cores; {LONG}=1 runs them")


class Load:
    """Clients that ask the same requests again and again, and note what is not as it was."""

    def __init__(self, fleet: FleetUp, whole: dict[int, Any], clients: int = 3) -> None:
        self.fleet, self.whole = fleet, whole
        self.answers = 0
        self.wrong: list[str] = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def _ask(self, at: int) -> None:
        while not self._ending.is_set():
            number = NUMBERS[at % len(NUMBERS)]
            try:
                made = answer(self.fleet.url, number)
                if made != self.whole[number]:
                    self.wrong.append(f"{number}: {made}")
            except (AssertionError, httpx.HTTPError) as error:
                self.wrong.append(f"{number}: {type(error).__name__} {error}")
            self.answers += 1
            at += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def slowed(pid: int, share: float) -> Iterator[None]:
    """A process that runs for a share of the time only."""
    ending = threading.Event()

    def throttle() -> None:
        while not ending.wait(0.02 * share):
            os.kill(pid, signal.SIGSTOP)
            ending.wait(0.02 * (1 - share))
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("models") / "pair"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    path.write_text(
        "[fleet]\nstall_seconds = 5\npublish_seconds = 0.5\n[[model]]\nreplicas = 2\nthreads = 1\n"
        f'model = "{model / "target"}"\ndrafter = "none"\nmodel_id = "geminate-embedded"\n'
    )
    return path


@pytest.fixture(scope="module")
def fleet(config: Path, packed_cache: Path) -> Iterator[FleetUp]:
    with FleetUp("--config", str(config)) as made:
        made.ready()
        made.wait_log("replica ready", 2)
        yield made


@pytest.fixture(scope="module")
def whole(fleet: FleetUp) -> dict[int, Any]:
    return {number: answer(fleet.url, number) for number in NUMBERS}


def asked_of(fleet: FleetUp) -> dict[str, float]:
    """Prompt tokens that each replica has looked up."""
    name = "geminate:fleet_replica_prefix_cache_queries_total"
    lines = httpx.get(f"{fleet.url}/metrics", timeout=10).text.splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith(name)]
    return {sample.split('replica="')[1].split('"')[0]: float(value) for sample, value in found}


def test_a_slow_replica_gets_less(fleet: FleetUp, whole: dict[int, Any]) -> None:
    fleet.until(lambda: fleet.metric("geminate:fleet_replicas") == 2)
    ready = fleet.wait_log("replica ready", 2)
    victim = ready[0]
    bodies = [
        {**body_of(0), "messages": [{"role": "user", "content": f"{i} stories"}], "max_tokens": 60, "stream": False}
        for i in range(60)
    ]
    for body in bodies:
        del body["stream_options"]

    def ask(body: dict[str, Any]) -> int:
        return httpx.post(f"{fleet.url}/v1/chat/completions", json=body, timeout=60).status_code

    with slowed(victim["pid"], 0.1), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, bodies[:20])) == {200}  # by which the ingress learns
        fleet.until(lambda: fleet.metric("geminate:fleet_replica_slowness", replica=victim["replica"]) > 3)
        time.sleep(1.5)
        before = asked_of(fleet)
        assert set(pool.map(ask, bodies[20:])) == {200}
    fleet.until(lambda: sum(asked_of(fleet).values()) > sum(before.values()))
    time.sleep(1.5)
    got = {name: value - before.get(name, 0.0) for name, value in asked_of(fleet).items()}
    assert got[victim["replica"]] < 0.25 * sum(got.values()), got


def test_an_update_replaces_one_after_the_other(fleet: FleetUp, whole: dict[int, Any], config: Path) -> None:
    """Replicas and the ingress; streams go on, and no connection is refused meanwhile."""
    before = set(fleet.pids())
    good = config.read_text()
    config.write_text(good + "max_running = 5\n")
    with Load(fleet, whole) as load:
        fleet.process.send_signal(signal.SIGHUP)
        fleet.wait_log("fleet updated")
        fleet.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
        count = load.answers
        fleet.until(lambda: load.answers > count + 6)
    assert not load.wrong, load.wrong[:3]
    assert len(set(fleet.living()) - before) == 2
    config.write_text(good + "max_runing = 5\n")
    fleet.process.send_signal(signal.SIGHUP)
    (said,) = fleet.wait_log("the fleet stays as it was")
    assert "did you mean 'max_running'" in said["error"]
    assert answer(fleet.url, 0) == whole[0]


def test_other_weights_are_refused(fleet: FleetUp, whole: dict[int, Any], model: Path) -> None:
    """A replica that is started again, after the files have changed, does not take part."""
    file = model / "target" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    half = len(raw) // 2
    raw[half : half + 4096] = raw[half + 4096 : half + 8192]  # a few weights are now others
    Path(f"{file}.new").write_bytes(raw)
    os.replace(f"{file}.new", file)
    os.kill(fleet.living()[0], signal.SIGKILL)
    said = fleet.wait_log("this replica is not admitted")[0]
    assert "it has other weights" in said["reason"]
    assert answer(fleet.url, 1) == whole[1]


def test_a_signal_ends_all_of_it(fleet: FleetUp, whole: dict[int, Any]) -> None:
    """Ctrl-C, which reaches every process of the terminal: streams are finished, and nothing is left."""
    processes = psutil.Process(fleet.process.pid).children(recursive=True)
    assert len(processes) > 4
    body = {**body_of(0), "max_tokens": 1200}
    with httpx.stream("POST", f"{fleet.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        said = len(fleet.raw)
        os.killpg(fleet.process.pid, signal.SIGINT)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert fleet.ended() == 0, "".join(fleet.raw[said:])
    assert [line.get("message") for line in fleet.log][-1] == "stopped"
    _, alive = psutil.wait_procs(processes, 20)
    assert not alive
    noise = [line for line in fleet.raw[said:] if '"message"' not in line]
    assert not noise, noise


@contextlib.contextmanager
def running(*flags: str) -> Iterator[FleetUp]:
    with FleetUp(*flags) as made:
        made.ready()
        yield made
        said = len(made.raw)
        assert made.stop() == 0, "".join(made.raw[said:])


@long
def test_scaling_up_and_down_under_streams(tmp_path: Path, packed_cache: Path) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text(
        "[[model]]\nreplicas = 1\nmax_replicas = 2\nthreads = 1\nmax_running = 4\n"
        "scale_up_seconds = 0\nscale_down_seconds = 2\n"
    )
    with running("--config", str(config)) as fleet:
        whole = {number: answer(fleet.url, number) for number in NUMBERS}
        with Load(fleet, whole, clients=8) as load:
            fleet.until(lambda: fleet.metric("geminate:fleet_replicas") == 2)
            fleet.wait_log("replica ready", 2)
            count = load.answers
            fleet.until(lambda: load.answers > count + 10)
        assert not load.wrong, load.wrong[:3]
        with Load(fleet, whole, clients=1) as load:
            fleet.until(lambda: fleet.metric("geminate:fleet_replicas") == 1)
            fleet.until(lambda: len(fleet.living()) == 1)
        assert not load.wrong, load.wrong[:3]
        assert fleet.metric("geminate:fleet_lost_streams_total") == 0, "the replica had finished what it had"


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(other, allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a cluster of two nodes, and what lets the second one vanish."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    address = next(line.strip() for line in process.stdout if ":" in line)

    def remove() -> None:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        next(line for line in process.stdout if line.strip() == "removed")

    yield address, remove
    process.stdin.close()
    try:
        process.wait(PATIENCE_S)
    finally:
        process.kill()


@long
def test_a_cluster_loses_a_node(tmp_path: Path, packed_cache: Path, cluster: tuple[str, Callable[[], None]]) -> None:
    address, remove = cluster
    config = tmp_path / "fleet.toml"
    config.write_text("[fleet]\nstall_seconds = 3\npin = false\n[[model]]\nreplicas = 2\nthreads = 1\n")
    with running("--config", str(config), "--address", address) as fleet:
        fleet.wait_log("replica ready", 2)
        whole = {number: answer(fleet.url, number) for number in NUMBERS}
        with Load(fleet, whole) as load:
            remove()
            fleet.until(lambda: fleet.metric("geminate:fleet_replicas") == 1)
            count = load.answers
            fleet.until(lambda: load.answers > count + 6)
        assert not load.wrong, load.wrong[:3]
