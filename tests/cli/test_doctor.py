"""``geminate doctor`` says what runs here, and what does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from geminate.backends import select
from geminate.backends.select import BuiltKernels
from geminate.cores import pick_threads
from geminate.tools import doctor
from support.cli import geminate


def test_what_this_machine_has(packed_cache: Path) -> None:
    done = geminate("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["threads"]["count"] == pick_threads().count
    assert found["kernels"]["used"] in (*found["kernels"]["isas"], "reference")
    assert found["cache"]["path"] == os.environ["GEMINATE_CACHE"] and found["cache"]["writable"]
    assert (done.returncode == 1) == bool(found["problems"])
    if found["kernels"]["native"]:
        assert found["rates"]["bandwidth_gbps"] > 0 and found["rates"]["int8_gmacs"] > 0
    said = geminate("doctor", "--fast").stdout
    assert f"threads       {pick_threads().count}: " in said and "rates" not in said


def test_forced_kernels_are_named() -> None:
    said = geminate("doctor", "--fast", env={"GEMINATE_ISA": "scalar"}).stdout
    assert "kernels       scalar;" in said and "variable      GEMINATE_ISA=scalar" in said
    wrong = geminate("doctor", "--fast", env={"GEMINATE_ISA": "mmx"})
    assert wrong.returncode == 2 and "GEMINATE_ISA=mmx is not available" in wrong.stderr


@pytest.mark.parametrize(
    ("built", "problem"),
    [
        (BuiltKernels(absent="are not built"), "are not built"),
        (BuiltKernels(file="/x/_native.so", arithmetic=-1, isas=("avx2",)), "belongs to another version"),
        (BuiltKernels(file="/x/_native.so", arithmetic=doctor.ARITHMETIC, isas=("scalar",)), "portable kernels"),
    ],
)
def test_problems_are_named(built: BuiltKernels, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "built_kernels", lambda: built)
    assert any(problem in text for text in doctor.examine(measure=False)["problems"])


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setenv("GEMINATE_CACHE", str(tmp_path / "cache"))
    assert any("GEMINATE_CACHE" in text for text in doctor.examine(measure=False)["problems"])
    assert select.built_kernels().arithmetic in (None, doctor.ARITHMETIC)
