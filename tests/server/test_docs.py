"""The tables of docs/serving-reference.md are current, and links within the serving pages lead to a section."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_tables_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "serving_docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["serving.md", "serving-reference.md"])
def test_links_lead_somewhere(name: str) -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    for page, anchor in re.findall(r"\]\(([a-z-]+\.md)?(?:#([^)]+))?\)", pages[name]):
        target = pages[page or name]
        assert not anchor or anchor in anchors(target), (page, anchor)
