"""Hashes of rows of ``tests/property/hashes.json``, computed where this runs: under emulation, say.

Usage: python tests/support/hash_rows.py DIRECTORY ROW...

DIRECTORY holds the fabricated models that `test_hashes.fabricate` made. Prints one line of JSON after each row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "property")]

from test_hashes import MOBILE, hash_of  # noqa: E402

from geminate import LLM  # noqa: E402


def main() -> int:
    """Print the hashes."""
    models = {f"mobile {path.name}": path for path in MOBILE}
    for row in sys.argv[2:]:
        name, weights, kv = row.split(", ")
        path = None if name == "embedded pair" else models.get(name, Path(sys.argv[1]) / name)
        print(json.dumps([row, hash_of(LLM(path, weights=weights, kv=kv, threads=2))]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
