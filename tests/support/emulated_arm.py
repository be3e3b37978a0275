"""A 64-bit ARM Linux in a directory, run by qemu-user: Debian's Python, wheels of the dependencies, Geminate's kernels.

Nothing of the system is changed: apt gets directories of its own, packages and wheels are only unpacked. What was made
is kept and used again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GLIBC = 36  # Debian 12's; wheels for this version and older ones run there
ZIG = "ziglang>=0.15,<0.18"

CPUS = {
    "cortex-a57": ["neon", "scalar"],
    "cortex-a76": ["neon-dotprod", "neon", "scalar"],
    "max,pauth-impdef=on": ["neon-i8mm", "neon-dotprod", "neon", "scalar"],
}
"""Processors that lack both extensions, have FEAT_DotProd, and FEAT_I8MM as well; what Geminate finds, best first.

The last one's pointer authentication takes qemu's own algorithm, which changes no result and saves time.
"""

QUICK_ROWS = (
    "embedded pair, int4, f16", "embedded pair, int8, int8", "embedded pair, bf16, int8", "mobile e2b, auto, f16",
)  # fmt: skip
"""Of the table of hashes: every kind of product, both formats of keys and values."""


class Unavailable(Exception):
    """Something that emulation needs cannot be had here; the message says what."""


def _run(command: list[str | Path], what: str, **options: Any) -> None:
    """Run a command.

    Raises:
        Unavailable: it fails or does not exist; `what` and its last line are the message.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError as error:
        raise Unavailable(f"{what}: there is no {error.filename}") from None
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Unavailable(f"{what}: {lines[-1] if lines else f'exit code {done.returncode}'}")


class EmulatedArm:
    """The directory and what runs in it.

    Attributes:
        root: unpacked Debian packages. site: unpacked wheels, and Geminate. tools: what the host builds with.

    Args:
        place: where everything is kept. Nothing is made until `prepare`.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root, self.site, self.tools = place / "root", place / "site", place / "tools"
        self._qemu: Path | None = None

    def prepare(self, wheel: Path | None = None) -> None:
        """Fetch and build what is missing.

        Args:
            wheel: an aarch64 wheel of Geminate to test; None: the working tree with kernels that are built here.

        Raises:
            Unavailable: a package, wheel or compiler cannot be had.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        self._fetch_debian()
        self._fetch_wheels()
        self.build()
        if wheel is not None:
            self._pip(self.site, "--no-deps", "--upgrade", *self._pip_platform(), wheel, what="unpacking the wheel")

    def _fetch_debian(self) -> None:
        done = self.place / "root.done"
        if done.exists():
            return
        apt = self.place / "apt"
        for part in ("lists/partial", "archives/partial", "parts"):
            (apt / part).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        places = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
        sources = [place for place in places if place.exists()]
        if not sources:
            raise Unavailable("arm64 packages: apt has no sources of Debian here")
        for source in sources:
            shutil.copy(source, apt / "parts" / (source.name if source.suffix == ".sources" else "debian.list"))
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root",
            "Dir::State": apt, "Dir::State::status": apt / "status", "Dir::Cache": apt,
            "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": apt / "parts",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        _run(["apt-get", *options, "-q", "update"], "Debian's list of arm64 packages")
        _run(["apt-get", *options, "-q", "-y", "-d", "--no-install-recommends", "install", "python3", "libstdc++6"],
             "Debian's arm64 packages")  # fmt: skip
        for package in sorted((apt / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", package, self.root], f"unpacking {package.name}")
        done.touch()

    @property
    def python(self) -> Path:
        """The emulated Python."""
        found = sorted((self.root / "usr" / "bin").glob("python3.[0-9]*"))
        if not found:
            raise Unavailable("Debian's arm64 packages hold no Python")
        return found[-1]

    def _pip_platform(self) -> list[str]:
        version = self.python.name.removeprefix("python")
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC + 1)] + ["manylinux2014_aarch64"]
        words = [word for platform in platforms for word in ("--platform", platform)]
        return ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *words]

    @staticmethod
    def _pip(target: Path, *words: str | Path, what: str) -> None:
        _run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", target, *words], what)

    def _fetch_wheels(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"], "safetensors>=0.4.5", "pytest>=8"]
        done = self.place / f"site-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]}.done"
        if done.exists():
            return
        shutil.rmtree(self.site, ignore_errors=True)
        self._pip(self.site, *self._pip_platform(), *wanted, what="aarch64 wheels")
        done.touch()

    def build(self) -> None:
        """Cross-build the native module and its self-test, and put the module beside the working tree's Python files.

        Raises:
            Unavailable: no compiler or no headers. RuntimeError: the build fails.
        """
        if self.python.name != f"python3.{sys.version_info.minor}":
            raise Unavailable(f"building for {self.python.name} needs that Python's headers: run this with it")
        self._fetch_tools()
        build = self.place / "native"
        self._cmake(
            ["-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={self._tool('ninja')}",
             *self._compiler(), "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DSKBUILD=ON",
             "-DGEMINATE_SELFTEST=ON", f"-DPython_EXECUTABLE={sys.executable}",
             f"-DPython_INCLUDE_DIR={sysconfig.get_paths()['include']}",
             f"-Dnanobind_DIR={self.tools / 'nanobind' / 'cmake'}"]
        )  # fmt: skip
        self._cmake(["--build", build])
        package = self.site / "geminate"
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(ROOT / "src" / "geminate", package, ignore=shutil.ignore_patterns("_native*.so", "__pycache__"))
        shutil.copy(next(build.glob("_native*.so")), package / "_native.so")

    def _cmake(self, words: list[str | Path]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(self.tools)}
        command = [self._tool("cmake"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"building for aarch64 failed:\n{done.stdout}{done.stderr}")

    def _tool(self, name: str) -> Path:
        return self.tools / "bin" / name

    def _fetch_tools(self) -> None:
        wanted = ["cmake>=3.25", "ninja>=1.11", "nanobind>=2.4"]
        if shutil.which("aarch64-linux-gnu-g++") is None:
            wanted.append(ZIG)
        done = self.place / f"tools-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]}.done"
        if not done.exists():
            self._pip(self.tools, "--upgrade", *wanted, what="cmake, ninja, nanobind and a compiler")
            done.touch()

    def _compiler(self) -> list[str]:
        """Debian's cross compiler where it is installed, else zig with an old glibc to link to."""
        gcc = shutil.which("aarch64-linux-gnu-g++")
        if gcc is not None:
            return [f"-DCMAKE_CXX_COMPILER={gcc}"]
        scripts = {"zig-c++": "c++ -target aarch64-linux-gnu.2.28", "zig-ar": "ar", "zig-ranlib": "ranlib"}
        for name, words in scripts.items():
            script = self.tools / name
            script.write_text(f'#!/bin/sh\nexec "{self.tools / "ziglang" / "zig"}" {words} "$@"\n')
            script.chmod(0o755)
        made = {"CXX_COMPILER": "zig-c++", "AR": "zig-ar", "RANLIB": "zig-ranlib"}
        return [f"-DCMAKE_{name}={self.tools / script}" for name, script in made.items()]

    @property
    def qemu(self) -> Path:
        """qemu-user for aarch64: the installed one, or the one of Debian's static package, unpacked.

        Raises:
            Unavailable: it is not installed, and the package cannot be had.
        """
        if self._qemu is None:
            names = ("qemu-aarch64", "qemu-aarch64-static")
            installed = next((found for name in names if (found := shutil.which(name))), None)
            if installed is not None:
                self._qemu = Path(installed)
            else:
                unpacked = self.place / "qemu"
                if not unpacked.exists():
                    _run(["apt-get", "-q", "download", "qemu-user-static"], "Debian's qemu", cwd=self.place)
                    package = next(self.place.glob("qemu-user-static_*.deb"))
                    _run(["dpkg-deb", "-x", package, unpacked], "unpacking qemu")
                self._qemu = unpacked / "usr" / "bin" / "qemu-aarch64-static"
        return self._qemu

    def run(self, cpu: str, program: Path, *words: str | Path, isa: str = "") -> str:
        """Output of a program on an emulated processor.

        Args:
            cpu: a key of `CPUS`. isa: GEMINATE_ISA, empty for Geminate's own choice.

        Raises:
            RuntimeError: it fails; the message ends in what it printed.
        """
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.place), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.site), "GEMINATE_CACHE": str(self.place / "cache"),
        }  # fmt: skip
        if isa:
            environment["GEMINATE_ISA"] = isa
        command = [self.qemu, "-cpu", cpu, "-L", self.root, program, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"{program.name} on {cpu}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def geminate(self, cpu: str, *words: str | Path, isa: str = "") -> str:
        """Output of a geminate command."""
        return self.run(cpu, self.python, "-c", "from geminate.cli.app import app; app()", *words, isa=isa)

    def selftest(self, cpu: str, *words: str) -> str:
        """Output of the native self-test."""
        return self.run(cpu, self.place / "native" / "geminate_selftest", *words)

    def isas(self, cpu: str) -> list[str]:
        """What Geminate finds on an emulated processor, best first."""
        text = self.run(cpu, self.python, "-c", "from geminate import _native; print(*_native.supported_isas())")
        return text.split()
