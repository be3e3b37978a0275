"""Prints the requirements that pyproject.toml lists: the run-time ones and those of the named extras, one per line.

Usage: python scripts/requirements.py server check
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> int:
    """Print them; an unknown extra is an error."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    if unknown := [name for name in sys.argv[1:] if name not in extras]:
        print(f"no extra {', '.join(unknown)}; there are {', '.join(extras)}", file=sys.stderr)
        return 2
    print("\n".join([*project["dependencies"], *(line for name in sys.argv[1:] for line in extras[name])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
