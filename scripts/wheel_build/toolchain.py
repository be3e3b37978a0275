"""What CMake needs to compile for another system with zig: a toolchain file and the programs that it names."""

from __future__ import annotations

import shutil
from pathlib import Path

from wheel_build.targets import Target

HERE = Path(__file__).parent
# nanobind hands Apple's linker a list of the interpreter's symbols, and CMake asks it for a bundle; zig's linker has
# other names for both. zig takes -march for the name of a processor: the features behind its plus signs are passed on.
_COMPILER = """#!/bin/sh
count=$#
while [ "$count" -gt 0 ]; do
  argument=$1
  shift
  count=$((count - 1))
  case "$argument" in
    -Wl,@*darwin-ld-*) set -- "$@" -Wl,-undefined,dynamic_lookup ;;
    -bundle) set -- "$@" -shared ;;
    -march=armv8*)
      rest=${{argument#*+}}
      while [ "$rest" != "$argument" ] && [ -n "$rest" ]; do
        set -- "$@" -Xclang -target-feature -Xclang "+${{rest%%+*}}"
        case "$rest" in *+*) rest=${{rest#*+}} ;; *) rest= ;; esac
      done
      ;;
    *) set -- "$@" "$argument" ;;
  esac
done
exec {zig} c++ -target {target} "$@"
"""
_TOOL = """#!/bin/sh
exec {zig} {tool} "$@"
"""


def headers(python_include: Path, folder: Path) -> Path:
    """CPython's headers with a pyconfig.h for every target."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(python_include, folder)
    shutil.copy(HERE / "pyconfig.h", folder / "pyconfig.h")
    return folder


def write_toolchain(target: Target, zig: Path, root: Path, folder: Path) -> Path:
    """The toolchain file for ``target`` in ``folder``.

    Args:
        zig: the compiler. root: of the sources; the compiled code names its files without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    programs = {"c++": _COMPILER.format(zig=zig, target=target.zig)}
    programs |= {tool: _TOOL.format(zig=zig, tool=tool) for tool in ("ar", "ranlib", "rc")}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    flags = f"-fno-sanitize=all -ffile-prefix-map={root}=."
    lines = [
        f"set(CMAKE_SYSTEM_NAME {target.system})",
        f"set(CMAKE_SYSTEM_PROCESSOR {target.processor})",
        f"set(CMAKE_CXX_COMPILER {folder}/c++)",
        f"set(CMAKE_AR {folder}/ar CACHE FILEPATH archiver)",
        f"set(CMAKE_RANLIB {folder}/ranlib CACHE FILEPATH ranlib)",
        f'set(CMAKE_CXX_FLAGS_INIT "{flags}")',
        "set(CMAKE_MODULE_LINKER_FLAGS_INIT -s)",
        "set(CMAKE_SKIP_RPATH ON)",
        "set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)",
    ]
    if target.system == "Darwin":  # nothing here needs to be renamed, nor an SDK other than zig's
        lines += [
            f"set(CMAKE_INSTALL_NAME_TOOL {shutil.which('true')} CACHE FILEPATH renamer)",
            'set(CMAKE_OSX_SYSROOT "" CACHE PATH sdk)',
            'set(CMAKE_OSX_DEPLOYMENT_TARGET "" CACHE STRING version)',
        ]
    if target.system == "Windows":
        lines.append(f"set(CMAKE_RC_COMPILER {folder}/rc)")
    file = folder / "toolchain.cmake"
    file.write_text("\n".join(lines) + "\n")
    return file
