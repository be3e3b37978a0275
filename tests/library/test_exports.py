"""What ``import geminate`` gives, exactly: a name is added or removed here and in the change log on purpose."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import geminate

NAMES = ["LLM", "ChatSession", "Delta", "GeminateError", "Output", "SamplingParams", "Stats", "__version__"]


def test_exactly_these_names() -> None:
    assert geminate.__all__ == NAMES
    assert all(hasattr(geminate, name) for name in NAMES)


def test_nothing_else_is_public() -> None:
    others = {n for n in vars(geminate) if not n.startswith("_")} - set(NAMES)
    assert {n for n in others if not isinstance(getattr(geminate, n), types.ModuleType)} == {"annotations"}


def test_star_import_gives_them() -> None:
    code = "from geminate import *; print(sorted(n for n in dir() if n in {'LLM', 'SamplingParams', 'annotations'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['LLM', 'SamplingParams']"


def test_types_are_declared() -> None:
    """py.typed is part of the package."""
    from importlib.resources import files

    assert files("geminate").joinpath("py.typed").is_file()


def test_the_native_module_is_imported_in_one_room() -> None:
    """Compiled modules are invisible to import-linter."""
    package = Path(geminate.__file__).parent
    importers = [p for p in package.rglob("*.py") if re.search(r"import.*\b_native\b", p.read_text(encoding="utf-8"))]
    assert {path.parent for path in importers} == {package / "backends" / "cpu"}
