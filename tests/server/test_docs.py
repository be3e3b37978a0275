"""The tables of docs/serving.md are current, and every type they point to has its section."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_tables_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "serving_docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    titles = {re.sub(r"[^a-z0-9_ -]", "", t.lower()).replace(" ", "-") for t in re.findall(r"^#+ (.+)$", text, re.M)}
    missing = set(re.findall(r"\]\(#([^)]+)\)", text)) - titles
    assert not missing
