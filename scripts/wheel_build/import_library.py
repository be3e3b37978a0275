"""Import libraries of Windows' python311.dll and python3.dll, made of names alone: no file of Windows is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def python_names(nanobind: Path) -> list[str]:
    """The interpreter's functions and data that nanobind may use, from its list for Apple's linker."""
    lines = (nanobind / "cmake" / "darwin-ld-cpython.sym").read_text().splitlines()
    return sorted({line.removeprefix("-U _") for line in lines if line.startswith("-U _")})


def write_import_library(zig: Path, library: str, names: list[str], folder: Path) -> Path:
    """``folder/LIBRARY.lib``, with which a module finds ``names`` in LIBRARY.dll.

    The names are more than a module uses; `wheel_build.check` looks whether the used ones exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    definition, made = folder / f"{library}.def", folder / f"{library}.lib"
    definition.write_text("\n".join([f"LIBRARY {library}.dll", "EXPORTS", *names]) + "\n")
    subprocess.run([zig, "dlltool", "-m", "i386:x86-64", "-d", definition, "-l", made], check=True)
    return made
