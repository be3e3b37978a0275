"""Builds wheels for every target and looks at what came out; see scripts/wheels, which sets up what is needed here."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import nanobind
from baseline import problems
from wheel_build.check import WrongWheelError, check_wheel
from wheel_build.import_library import python_names, write_import_library
from wheel_build.targets import TARGETS, Target
from wheel_build.toolchain import headers, write_toolchain

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "wheels"
MAX_BYTES = 45_000_000
TRIED = ("linux-x86_64", "linux-aarch64")  # for Python 3.11; the others have not been built to the end yet
SUMS = "SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class Python:
    """An interpreter that wheels are built with.

    Attributes:
        executable: of an environment with the build's requirements. tag: of the wheels, as in ``cp312-abi3``.
        include: its headers. library: the Windows library that modules of this tag are linked with, without suffix.
    """

    executable: Path
    tag: str
    include: Path
    library: str

    @property
    def abi3(self) -> bool:
        """Whether its modules serve later versions too."""
        return self.tag.endswith("abi3")


def python_of(executable: Path, tag: str, library: str) -> Python:
    """The interpreter with its headers.

    Raises:
        SystemExit: it has none.
    """
    asked = "import sysconfig; print(sysconfig.get_config_var('INCLUDEPY'))"
    found = subprocess.run([executable, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    if not (Path(found) / "Python.h").exists():
        sys.exit(f"scripts/wheels: {executable} has no headers in {found}; install Python's development files")
    return Python(executable=executable, tag=tag, include=Path(found), library=library)


def copy_sources(folder: Path) -> None:
    """The files of the working tree that git knows, so that nothing else gets into a wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def environment() -> dict[str, str]:
    """Variables of a build: the time of the commit as every file's, zig's caches beside the builds."""
    commit = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        "SOURCE_DATE_EPOCH": commit.stdout.strip(),
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig"),
        "CMAKE_GENERATOR": "Ninja",
    }


def build(target: Target, python: Python, zig: Path, sources: Path) -> Path:
    """One wheel, in a folder of its own."""
    name = f"{target.name}-{python.tag}"
    toolchain = write_toolchain(target, zig, sources, WORK / "toolchain" / target.name)
    include = headers(python.include, WORK / "include" / python.tag)
    defines = {"CMAKE_TOOLCHAIN_FILE": str(toolchain), "Python_INCLUDE_DIR": str(include)}
    defines["CMAKE_EXPORT_COMPILE_COMMANDS"] = "ON"
    variables = environment()
    extra: list[str] = []
    suffix = target.module_name(python.abi3).removeprefix("_native")
    if python.abi3:
        extra = ["-C", "wheel.py-api=cp312"]
        defines["SKBUILD_SOSABI"] = suffix.rpartition(".")[0].lstrip(".")
    else:
        variables["SETUPTOOLS_EXT_SUFFIX"] = suffix
    if target.system == "Windows":
        defines |= {"NB_SUFFIX": suffix, "NB_SUFFIX_S": suffix}  # nanobind would ask the Python of this machine
        names = python_names(Path(nanobind.__file__).parent)
        for library in ("python311", "python3") if not python.abi3 else ("python312", "python3"):
            made = write_import_library(zig, library, names, WORK / "import")
            defines["Python_SABI_LIBRARY" if library == "python3" else "Python_LIBRARY"] = str(made)
    out = WORK / "out" / name
    shutil.rmtree(out, ignore_errors=True)
    command = [python.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", out, sources, "-C", f"build-dir={WORK / 'cmake' / name}"]
    command += ["-C", f"wheel.tags={python.tag}-{target.platform}", *extra]
    for key, value in defines.items():
        command += ["-C", f"cmake.define.{key}={value}"]
    log = WORK / f"{name}.log"
    with log.open("w") as file:
        done = subprocess.run(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"scripts/wheels: {name} failed; the last lines of {log}:\n" + log.read_text()[-3000:])
    if target.name == "linux-x86_64" and (found := problems(WORK / "cmake" / name)):
        sys.exit("scripts/wheels: " + "\n".join(found))
    return next(out.glob("*.whl"))


def write_sums(folder: Path) -> None:
    """The SHA-256 of all wheels in ``folder``, as sha256sum writes and reads them."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(folder.glob("*.whl"))]
    (folder / SUMS).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Build and check."""
    parser = argparse.ArgumentParser(prog="scripts/wheels", description="Wheels for Linux, macOS and Windows.")
    parser.add_argument("--python311", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--python-abi3", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the wheels go (default: dist)")
    parser.add_argument(
        "--tag", choices=("cp311-cp311", "cp312-abi3"), help="only wheels with this tag (default: cp311-cp311)"
    )
    names = [target.name for target in TARGETS]
    parser.add_argument("target", nargs="*", help=f"of {', '.join(names)} (default: {', '.join(TRIED)})")
    given = parser.parse_args()
    if unknown := [name for name in given.target if name not in names]:
        parser.error(f"there is no target {unknown[0]}; known: {', '.join(names)}")
    wanted, tag = given.target or TRIED, given.tag or "cp311-cp311"
    for name in wanted:
        if name not in TRIED or tag != "cp311-cp311":
            print(f"scripts/wheels: {name} {tag} has not been built to the end yet", file=sys.stderr)
    os.umask(0o022)
    zig = Path(sysconfig.get_path("purelib")) / "ziglang" / "zig"
    pythons = [
        python_of(given.python311, "cp311-cp311", "python311"),
        python_of(given.python_abi3, "cp312-abi3", "python3"),
    ]
    sources = WORK / "source"
    copy_sources(sources)
    given.out.mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        for python in pythons:
            if target.name not in wanted or python.tag != tag:
                continue
            wheel = build(target, python, zig, sources)
            if wheel.stat().st_size > MAX_BYTES:
                sys.exit(f"scripts/wheels: {wheel.name} has {wheel.stat().st_size:,} bytes, at most {MAX_BYTES:,}")
            try:
                seen = check_wheel(wheel, target, abi3=python.abi3)
            except WrongWheelError as error:
                sys.exit(f"scripts/wheels: {wheel.name}: {error}")
            shutil.copy2(wheel, given.out / wheel.name)
            print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {seen}", flush=True)
    write_sums(given.out)


if __name__ == "__main__":
    main()
