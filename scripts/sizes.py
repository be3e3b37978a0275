"""Files of at most 400 lines, Python functions of at most 60: prints what is larger and exits with 1.

Usage: python scripts/sizes.py
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE, MAX_FUNCTION = 400, 60
SOURCE = {".py", ".pyi", ".cpp", ".h", ".js", ".css", ".html", ".sh", ".cmake"}
ROOT = Path(__file__).resolve().parents[1]


def tracked() -> list[Path]:
    """Source files that git knows; data and generated files have other suffixes."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for line in listed.splitlines() if (path := ROOT / line).suffix in SOURCE and path.exists()]


def long_functions(path: Path, text: str) -> Iterator[str]:
    """Functions and methods with more lines than allowed; decorators do not count, they hold tables of test cases."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION}"


def main() -> int:
    """Check every file."""
    found: list[str] = []
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > MAX_FILE:
            found.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {MAX_FILE}")
        if path.suffix == ".py":
            found += long_functions(path, text)
    print("\n".join(found) or f"sizes: no file over {MAX_FILE} lines, no function over {MAX_FUNCTION}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
