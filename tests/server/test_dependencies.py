"""Bounds, lock file and known holes: scripts/audit says what is wrong with them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = tomllib.loads((ROOT / "deploy" / "advisories.toml").read_text())["advisory"]


@pytest.fixture
def audit() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("audit", str(ROOT / "scripts" / "audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_no_known_hole_is_admitted(audit: ModuleType, project: dict[str, Any]) -> None:
    assert list(audit.problems(project, TABLE)) == []


@pytest.mark.parametrize(
    ("old", "new", "hole"),
    [("jinja2>=3.1.6", "jinja2>=3.1.5", "CVE-2025-27516"), ("h11>=0.16,<0.17", "h11>=0.14,<0.17", "CVE-2025-43859"),
     ("starlette>=0.49.1", "starlette>=0.47", "CVE-2025-62727"), ("numpy>=1.26", "numpy", "no lower bound")],
)  # fmt: skip
def test_a_lower_bound_that_admits_one_is_named(
    old: str, new: str, hole: str, audit: ModuleType, project: dict[str, Any]
) -> None:
    lists = [project["dependencies"], project["optional-dependencies"]["server"]]
    [changed] = [names for names in lists if old in names]
    changed[changed.index(old)] = new
    assert any(hole in line for line in audit.problems(project, TABLE))


def test_a_locked_version_with_one_is_named(
    audit: ModuleType, project: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "requirements.lock"
    text = audit.LOCK.read_text()
    [line] = [line for line in text.splitlines() if line.startswith("jinja2==")]
    lock.write_text(text.replace(line, "jinja2==3.1.4 \\"))
    monkeypatch.setattr(audit, "LOCK", lock)
    assert any("jinja2 3.1.4 has CVE-2025-27516" in line for line in audit.problems(project, TABLE))


def test_the_lock_has_hashes_and_names_no_index(audit: ModuleType) -> None:
    assert "://" not in audit.LOCK.read_text()
    assert all(hashes for _, hashes in audit.locked().values())
    containerfile = (ROOT / "deploy" / "Containerfile").read_text()
    assert "--require-hashes -r /wheelhouse/requirements.lock" in containerfile


def test_parts_that_are_used_from_inside_have_upper_bounds(project: dict[str, Any]) -> None:
    bounds = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    for name in ("uvicorn", "h11", "llguidance"):
        assert any(line.startswith(f"{name}>=") and "<" in line for line in bounds), name
