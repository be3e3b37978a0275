"""Looks whether code for newer processors can reach older ones: prints what is wrong and exits with 1.

Sources with instruction-set flags may be chosen at run time alone. A weak symbol in their object files, such as an
inline function of a header, could be the copy that the linker takes for everybody. Needs the build's
compile_commands.json and nm (binutils); for ELF objects.

Usage: python scripts/baseline.py BUILD
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

ISA_FLAG = re.compile(r"-m(avx|fma|f16c|sse[34]|arch=|cpu=|bmi|amx)")
BASELINE = re.compile(r"-m(arch|cpu|tune)=native")
CHOSEN_AT_RUN_TIME = re.compile(r"native/(isa|sampling)/")


def problems(build: Path) -> list[str]:
    """What is wrong, a line each; an empty list of sources with flags is wrong too on x86-64."""
    found: list[str] = []
    flagged = 0
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        words = shlex.split(entry["command"])
        flags = [word for word in words if ISA_FLAG.match(word) or BASELINE.match(word)]
        if not flags:
            continue
        flagged += 1
        name, made = entry["file"], Path(entry["directory"]) / words[words.index("-o") + 1]
        if any(BASELINE.match(flag) for flag in flags):
            found.append(f"{name}: {' '.join(flags)} compiles for this machine alone")
        if not CHOSEN_AT_RUN_TIME.search(name):
            found.append(f"{name}: {' '.join(flags)} for code that runs everywhere")
        listed = subprocess.run(["nm", "--defined-only", made], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            kind, symbol = line.split()[-2:]
            if kind in "WVuw":
                found.append(f"{name}: the weak symbol {symbol} may be taken for every processor")
    if not flagged:
        found.append(f"{build}: no source has instruction-set flags, so nothing was looked at")
    return found


def main() -> int:
    """Look at one build."""
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or "baseline: no code for newer processors can be linked into what runs everywhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
