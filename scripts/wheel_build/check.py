"""Looks at a wheel as its users' systems will: processor, libraries, versions, the interpreter's names."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import lief
from wheel_build.targets import Target

GLIBC = (2, 28)
MACOS = (11, 0)
PYTHON_NAME = re.compile(r"_?_?Py[A-Z_]\w*")
MACHINES = {
    "x86_64": (lief.ELF.ARCH.X86_64, lief.MachO.Header.CPU_TYPE.X86_64),
    "AMD64": (None, None),
    "aarch64": (lief.ELF.ARCH.AARCH64, None),
    "arm64": (None, lief.MachO.Header.CPU_TYPE.ARM64),
}


class WrongWheelError(Exception):
    """A wheel that would not work where its name says."""


def check_wheel(wheel: Path, target: Target, *, abi3: bool) -> str:
    """Look at a wheel; what was seen, for people.

    Raises:
        WrongWheelError: it would not work where its name says.
    """
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith((".so", ".pyd", ".dll", ".dylib"))]
        if modules != [f"geminate/{target.module_name(abi3)}"]:
            raise WrongWheelError(f"holds the modules {modules}, not {target.module_name(abi3)} alone")
        raw = archive.read(modules[0])
    looks = {"Linux": _elf, "Darwin": _macho, "Windows": _pe}
    names, seen = looks[target.system](raw, target)
    used = {name for name in names if PYTHON_NAME.fullmatch(name)}
    if not used:
        raise WrongWheelError("its module seems to use nothing of Python")
    if not abi3:
        missing = sorted(name for name in used if not hasattr(ctypes.pythonapi, name))
        if sys.version_info[:2] != (3, 11) or missing:
            raise WrongWheelError(f"Python 3.11 has no {', '.join(missing) or 'such names to compare with'}")
    else:
        _run([sys.executable, "-m", "abi3audit", "--strict", wheel])
    if target.name == "linux-x86_64":  # it knows no other machine than its own
        text = _run([sys.executable, "-m", "auditwheel", "show", wheel])
        if target.platform not in re.sub(r"\s+", " ", text):
            raise WrongWheelError(f"auditwheel says: {text}")
        seen += ", auditwheel agrees"
    _run([sys.executable, "-m", "twine", "check", "--strict", wheel])
    return f"{seen}, {len(used)} names of the interpreter{', all of the stable ABI' if abi3 else ''}"


def _run(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WrongWheelError(f"{command[2]} says: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def _only(found: set[str], target: Target) -> None:
    strange = sorted(name for name in found if name.lower() not in target.libraries)
    strange = [name for name in strange if not name.lower().startswith("api-ms-win-")]
    if strange:
        raise WrongWheelError(f"needs {', '.join(strange)}, which its users may not have")


def _elf(raw: bytes, target: Target) -> tuple[set[str], str]:
    binary = lief.ELF.parse(raw)
    if binary is None or binary.header.machine_type != MACHINES[target.processor][0]:
        raise WrongWheelError("its module is for another processor")
    _only(set(binary.libraries), target)
    versions = {aux.name for need in binary.symbols_version_requirement for aux in need.get_auxiliary_symbols()}
    glibc = max((tuple(map(int, v[6:].split("."))) for v in versions if v.startswith("GLIBC_")), default=(0,))
    if glibc > GLIBC:
        raise WrongWheelError(f"needs glibc {'.'.join(map(str, glibc))}")
    undefined = {str(symbol.name) for symbol in binary.dynamic_symbols if symbol.shndx == 0}
    return undefined, f"glibc {'.'.join(map(str, glibc))}"


def _macho(raw: bytes, target: Target) -> tuple[set[str], str]:
    parsed = lief.MachO.parse(raw)
    binary = None if parsed is None else parsed.at(0)
    if binary is None or binary.header.cpu_type != MACHINES[target.processor][1]:
        raise WrongWheelError("its module is for another processor")
    _only(
        {library.name for library in binary.libraries if library.command != lief.MachO.LoadCommand.TYPE.ID_DYLIB},
        target,
    )
    version = (
        tuple(binary.build_version.minos[:2]) if binary.has_build_version else tuple(binary.version_min.version[:2])
    )
    if version > MACOS:
        raise WrongWheelError(f"needs macOS {'.'.join(map(str, version))}")
    if target.processor == "arm64" and not binary.has_code_signature:
        raise WrongWheelError("is not signed, which macOS on ARM asks for")
    names = {str(symbol.name).removeprefix("_") for symbol in binary.imported_symbols}
    return names, f"macOS {'.'.join(map(str, version))}, signed" if binary.has_code_signature else f"macOS {version}"


def _pe(raw: bytes, target: Target) -> tuple[set[str], str]:
    binary = lief.PE.parse(list(raw))
    if binary is None or binary.header.machine != lief.PE.Header.MACHINE_TYPES.AMD64:
        raise WrongWheelError("its module is for another processor")
    _only({entry.name for entry in binary.imports}, target)
    names = {
        str(item.name) for entry in binary.imports if entry.name.lower().startswith("python") for item in entry.entries
    }
    return names, f"libraries {', '.join(sorted(e.name for e in binary.imports if not e.name.startswith('api-ms')))}"
