"""The examples for plain balancers agree with the server, and nginx does with them what they say."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate.server.http.auth import OPEN_PATHS
from geminate.server.settings import Settings, rows
from geminate.server.sources import checked
from support.fleet_up import free_port
from support.serving import Served, chat_body, stream

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SETTINGS = {row.name for row in rows()}


def manifests() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def quantity(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]i)?", text).groups()  # type: ignore[union-attr]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30, None: 0}[unit]


def test_pods_get_what_the_settings_need() -> None:
    made = manifests()
    settings = Settings(**checked(tomllib.loads(made["ConfigMap"]["data"]["geminate.toml"]), "geminate.toml"))
    pod = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests == limits and int(requests["cpu"]) == settings.threads
    assert settings.kv_bytes is not None and quantity(requests["memory"]) > settings.kv_bytes + (2 << 30)
    assert pod["terminationGracePeriodSeconds"] > settings.drain_seconds + 10
    assert settings.host == "0.0.0.0" and settings.api_key_file is not None
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert set(mounts.values()) == volumes and str(Path(settings.api_key_file).parent) in mounts
    assert str(Path(str(settings.model)).parent) in mounts
    assert container["args"][0] == "serve" and str(Path(container["args"][2]).parent) in mounts
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in OPEN_PATHS
    script = container["readinessProbe"]["exec"]["command"][2]
    compile(script, "readiness", "exec")
    assert "/health/ready" in script and settings.api_key_file in script


def test_manifests_belong_together() -> None:
    made = manifests()
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert made["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert made["Service"]["spec"]["selector"] == labels
    budget = made["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert 0 < budget["minAvailable"] < made["Deployment"]["spec"]["replicas"]


def test_compose() -> None:
    made = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    upstream = set(re.findall(r"server 127\.0\.0\.1:(\d+)", (DEPLOY / "nginx.conf").read_text()))
    ports, cores = set(), []
    for name in ("first", "second"):
        service = made["services"][name]
        for variable in service["environment"]:
            assert variable.removeprefix("GEMINATE_SERVE_").lower() in SETTINGS, variable
        ports.add(service["environment"]["GEMINATE_SERVE_PORT"])
        own = service["cpuset"].split(",")
        assert len(own) == int(service["environment"]["GEMINATE_SERVE_THREADS"])
        cores += own
        assert int(service["stop_grace_period"][:-1]) > int(service["environment"]["GEMINATE_SERVE_DRAIN_SECONDS"]) + 5
    assert ports == upstream and len(cores) == len(set(cores))


def test_nginx_waits_as_long_as_the_server() -> None:
    text, settings = (DEPLOY / "nginx.conf").read_text(), Settings()
    seconds = {name: float(value) for name, value in re.findall(r"(\w+_timeout) (\d+)s;", text)}
    assert seconds["proxy_read_timeout"] > settings.request_seconds
    assert seconds["client_header_timeout"] == settings.head_seconds
    assert seconds["client_body_timeout"] == settings.body_seconds
    assert f"client_max_body_size {settings.max_body_bytes >> 20}m;" in text


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory, packed_cache: Path) -> Iterator[tuple[str, list[Served]]]:
    """The address of nginx with `deploy/nginx.conf`, and the two servers behind it."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    place = tmp_path_factory.mktemp("nginx")
    port = free_port()
    with Served() as first, Served() as second:
        text = (DEPLOY / "nginx.conf").read_text()
        for old, new in (("8000", port), ("8001", first.ready().port), ("8002", second.ready().port)):
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"    {kind}_temp_path {place}/{kind};\n" for kind in kinds)
        (place / "nginx.conf").write_text(text.replace("http {\n", "http {\n" + temporary))
        command = [program, "-p", str(place), "-c", "nginx.conf", "-g", "daemon off;"]
        assert subprocess.run([*command, "-t"], capture_output=True, timeout=20).returncode == 0
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health/live")
                    break
                except httpx.HTTPError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", [first, second]
        finally:
            running.terminate()
            running.wait(20)


def generated(servers: list[Served]) -> list[float]:
    name = "geminate:generation_tokens_total"
    return [server.metrics().get(name, 0.0) for server in servers if server.process.poll() is None]


def test_conversations_stay_and_spread(balanced: tuple[str, list[Served]]) -> None:
    url, servers = balanced
    places: dict[int, set[int]] = {}
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, turn in itertools.product(range(8), range(2)):
            before = generated(servers)
            answer = client.post(
                "/v1/chat/completions", json=chat_body(max_tokens=2), headers={"X-Conversation": f"c{number}"}
            )
            assert answer.status_code == 200, turn
            after = generated(servers)
            places.setdefault(number, set()).add(next(i for i in (0, 1) if after[i] > before[i]))
        events = stream(client, "/v1/chat/completions", chat_body(max_tokens=30))
    assert len(events) > 2 and all(len(place) == 1 for place in places.values())
    assert len(Counter(place for one in places.values() for place in one)) == 2


def test_a_server_that_is_gone_is_passed(balanced: tuple[str, list[Served]]) -> None:
    """The last test of this file: it stops a server."""
    url, servers = balanced
    servers[0].process.kill()
    servers[0].process.wait()
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(8):
            answer = client.post(
                "/v1/chat/completions", json=chat_body(max_tokens=2), headers={"X-Conversation": f"c{number}"}
            )
            assert answer.status_code == 200
    assert os.path.exists(f"/proc/{servers[1].process.pid}")
