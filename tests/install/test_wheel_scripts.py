"""The workflow and the documentation name the same systems as `scripts/wheels`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from wheel_build.targets import TARGETS  # noqa: E402

WORKFLOW = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")


def test_the_workflow_builds_every_system() -> None:
    assert sorted(re.findall(r"target: ([\w-]+), runner", WORKFLOW)) == sorted(target.name for target in TARGETS)


def test_what_is_installed_there_is_what_is_built() -> None:
    tags = {f"{tag}-{t.platform}" for t in TARGETS for tag in ("cp311-cp311", "cp312-abi3")}
    named = set(re.findall(r"wheel: ([\w-]+)", WORKFLOW))
    assert len(named) == 5 and named <= tags


def test_only_publishing_may_sign_and_only_for_tags() -> None:
    jobs = re.split(r"\n  (?=\w+:\n)", WORKFLOW.split("\njobs:")[1])
    signing = [job for job in jobs if "id-token: write" in job]
    assert len(signing) == 1 and "refs/tags/v" in signing[0] and "attest-build-provenance" in signing[0]
    assert "password" not in WORKFLOW and "secrets." not in WORKFLOW


def test_the_documentation_lists_every_ending() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [t.platform for t in TARGETS if f"`{t.platform}.whl`" not in text] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the script says so itself elsewhere")
def test_an_unknown_interpreter_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "wheels"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/no/python"},
    )
    assert done.returncode == 2 and done.stderr == "scripts/wheels: needs Python 3.11; name it in PYTHON\n"
