"""The files in ``deploy/`` agree with the server: settings, metrics, paths."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the server's packages are not installed")

from geminate.engine.service import ServiceSnapshot
from geminate.server.metrics import Metrics
from geminate.server.settings import rows
from geminate.server.sources import load_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = {row.name: row for row in rows()}


def exported() -> dict[str, set[str]]:
    """Sample name -> label names, of a server whose model is loaded."""
    metrics = Metrics()
    fields = dict.fromkeys(ServiceSnapshot.__dataclass_fields__, 0)
    metrics.attach("m", "f16", lambda: ServiceSnapshot(**fields), lambda: 0)  # type: ignore[arg-type]
    metrics.http("/v1/models", 200, 0.1)
    found: dict[str, set[str]] = {}
    for line in metrics.text().decode().splitlines():
        match = re.match(r"(geminate:\w+)(?:\{(.*)\})? ", line)
        if match:
            found.setdefault(match[1], set()).update(re.findall(r"(\w+)=", match[2] or ""))
    return found


def expressions(dashboard: dict[str, Any]) -> list[str]:
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return asked + [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]


def test_dashboard_asks_for_what_is_exported() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    known, used = exported(), set()
    for expression in expressions(dashboard):
        names = re.findall(r"geminate:\w+", expression)
        assert names, expression
        for name in names:
            assert name in known, f"the server exports no {name}"
            used.add(name)
        grouped = re.findall(r"by \((\w+)\)", expression) + re.findall(r"label_values\([\w:]+, (\w+)\)", expression)
        labels = set().union(*(known[name] for name in names)) | {"instance"}
        assert set(grouped) <= labels, expression
    asked = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in used}
    had = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in known if not name.endswith("_created")}
    assert had == asked, "the dashboard shows every metric"


def test_dashboard_is_whole() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


def test_example_settings_load() -> None:
    text = (DEPLOY / "geminate.toml").read_text()
    settings = load_settings(env={}, config=DEPLOY / "geminate.toml")
    assert settings.host == "127.0.0.1" and settings.kv_bytes == 4 << 30
    shown = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    assert len(tomllib.loads(shown)) > len(tomllib.loads(text)) + 10


def test_commented_examples_load_as_well(tmp_path: Path) -> None:
    text = (DEPLOY / "geminate.toml").read_text()
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    load_settings(env={}, config=path)


def unit() -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(DEPLOY / "geminate.service")
    return parsed


def test_unit_stops_later_than_it_drains() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > load_settings(env={}).drain_seconds + 5
    assert float(service["TimeoutStopSec"]) > load_settings(env={}, config=DEPLOY / "geminate.toml").drain_seconds + 5


@pytest.mark.parametrize("name", ["geminate.service", "Containerfile", "README.md"])
def test_variables_exist(name: str) -> None:
    text = (DEPLOY / name).read_text()
    for variable in re.findall(r"GEMINATE_SERVE_([A-Z_]*[A-Z])", text):
        assert variable == "CONFIG" or variable.lower() in SETTINGS, variable


def test_container_copies_what_the_build_reads() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert f"!{source}" in ignore, f"{source} is kept out of the build's context"
                assert source == "deploy/wheelhouse" or (ROOT / source).exists(), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = " ".join(line for line in lines if line.startswith("COPY "))
    assert project["readme"] in copied and "CMakeLists.txt" in copied
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and all(user.split(":")[0] != "0" and user[0].isdigit() for user in users)
    assert not any(re.match(r"RUN .*(apt-get|curl|wget)", line) for line in lines), "the build must need no network"
