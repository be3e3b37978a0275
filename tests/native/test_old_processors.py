"""A processor without AVX, or whose system does not save its registers, runs the portable kernels."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="these are models of x86-64 processors"),
    pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)"),
]
MAIN_JOB = (
    "-m",
    "geminate",
    "generate",
    "Once upon a time",
    "--raw",
    "-n",
    "8",
    "-q",
    "--temperature",
    "0",
    "--threads",
    "1",
)


def on(model: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """This Python with these arguments on such a processor."""
    assert QEMU is not None
    # OpenBLAS' choice for the machine at hand would be an instruction that the model lacks.
    left = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_CORETYPE")}
    return subprocess.run(
        [QEMU, "-cpu", model, sys.executable, *args], capture_output=True, text=True, timeout=300, env={**left, **env}
    )


@pytest.mark.parametrize(
    ("model", "isas"),
    [
        ("Conroe", "scalar"),  # SSE3: NumPy does not run there
        ("Nehalem", "scalar"),  # SSE4.2
        ("SandyBridge", "scalar"),  # AVX alone
        ("Haswell,-f16c", "scalar"),
        ("Haswell,-fma", "scalar"),
        ("Haswell,-xsave", "scalar"),  # a system that does not save AVX registers
        ("Haswell", "avx2 scalar"),
    ],
)
def test_the_instruction_sets_are_those_of_the_processor(model: str, isas: str) -> None:
    done = on(model, "-c", "from geminate import _native; print(*_native.supported_isas())")
    assert (done.returncode, done.stdout.strip()) == (0, isas), done.stderr


def test_the_main_job_on_an_old_processor(packed_cache: object) -> None:
    here = subprocess.run([sys.executable, *MAIN_JOB], capture_output=True, text=True, timeout=120)
    old = on("Nehalem", *MAIN_JOB)
    assert here.returncode == old.returncode == 0, here.stderr + old.stderr
    assert old.stdout == here.stdout


def test_kernels_that_the_processor_lacks_are_refused() -> None:
    done = on("Nehalem", *MAIN_JOB, GEMINATE_ISA="avx2")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "GEMINATE_ISA=avx2 is not available here; this machine and build have: scalar" in done.stderr
