"""Links of the docs lead somewhere, and the classes that the glossary names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "deploy", "benchmarks", "recipes", "src")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_the_glossary_names_classes_that_exist() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+)`", text))
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "geminate").rglob("*.py"))
    unknown = {name for name in named if not re.search(rf"^(class {name}\b|{name} = )", source, re.MULTILINE)}
    assert len(named) > 20 and not unknown


def test_the_readme_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme]


def test_paths_named_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = {p for p in re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", text) if "NAME" not in p}
    places = (ROOT, ROOT / "src" / "geminate", ROOT / "native", ROOT / "tests")
    assert len(paths) > 25
    assert not [p for p in paths if not any((place / p).exists() for place in places)]
