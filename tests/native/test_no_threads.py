"""Threads that the system refuses, and a native module that it cannot load: one line, and what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import geminate as package
from support.cli import geminate, refused

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--raw", "-n", "4", "-q")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux'")
def test_threads_that_cannot_be_started() -> None:
    text = (
        "import resource\n"
        "import numpy as np\n"
        "from geminate import _native\n"
        "from geminate.errors import BackendError\n"
        "pool, data = _native.Pool(4), np.ones(1 << 20, np.uint8)\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), before[1]))\n"
        "try:\n"
        "    pool.read_seconds('scalar', data)\n"
        "except BackendError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_AS, before)\n"
        "print(pool.read_seconds('scalar', data) > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    said, works = done.stdout.splitlines()
    assert said.startswith("cannot start 4 threads (Resource temporarily unavailable") and "--threads 1" in said
    assert works == "True", "the pool works again when the system allows it"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package with a native module of another machine."""
    made = tmp_path / "geminate"
    shutil.copytree(Path(package.__file__).parent, made, ignore=shutil.ignore_patterns("_native*.so", "__pycache__"))
    (made / "_native.abi3.so").write_bytes(b"\x7fELF" + bytes(60))
    return made


def test_a_module_that_cannot_be_loaded(copy: Path) -> None:
    prelude = f"import sys; sys.path.insert(0, {str(copy.parent)!r})"
    refused("generate", "x", *SHORT, says="cannot be loaded (", prelude=prelude, env={"GEMINATE_ISA": "scalar"})
    says = "the native kernels cannot be loaded ("
    done = geminate("generate", "x", *SHORT, prelude=prelude)
    assert done.returncode == 0 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = geminate("doctor", "--fast", prelude=prelude)
    assert done.returncode == 1 and says in done.stdout + done.stderr


def test_a_compiler_without_threads(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    fake = "set(CMAKE_DISABLE_FIND_PACKAGE_Threads ON)\n"
    (tmp_path / "toolchain.cmake").write_text(fake)
    done = subprocess.run(
        [cmake, "-S", ROOT, "-B", tmp_path / "build", f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'toolchain.cmake'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and "a C++ library with threads" in done.stderr, done.stderr
    assert "GEMINATE_NATIVE=0" in done.stderr
