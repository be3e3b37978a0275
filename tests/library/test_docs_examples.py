"""Every Python example of the docs runs, prints what the page shows, and every public name has its place there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import geminate
from geminate import LLM, ChatSession, Delta, Output, SamplingParams, Stats

ROOT = Path(__file__).resolve().parents[2]
SKIP = "<!-- not run: needs a download -->\n"
BLOCK = re.compile(rf"({re.escape(SKIP)})?```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def blocks(page: Path) -> list[tuple[bool, str, str | None]]:
    """(run, code, expected output) of every Python block."""
    return [(not skip, code, shown) for skip, code, shown in BLOCK.findall(page.read_text(encoding="utf-8"))]


def run(page: Path, code: str, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), names)
    return printed.getvalue()


@pytest.mark.parametrize(
    ("name", "examples", "downloads"),
    [("docs/python.md", 23, 1), ("README.md", 1, 0), ("docs/structured-output.md", 2, 0)],
)
def test_examples(name: str, examples: int, downloads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / name
    found = blocks(page)
    assert len(found) == page.read_text(encoding="utf-8").count("```python\n") == examples
    assert sum(not wanted for wanted, _, _ in found) == downloads
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    for wanted, code, shown in found:
        if wanted:
            printed = run(page, code, names)
            assert not shown or printed == shown, f"{name}:\n{code}"


def test_a_wrong_example_would_fail(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    [(wanted, code, shown)] = blocks(page)
    assert wanted and run(page, code, {}) == "1\n" != shown


def public(kind: type) -> set[str]:
    """Public attributes of a class and its bases, those of its dataclass fields included."""
    own = {name for base in kind.__mro__[:-1] for name in vars(base)}
    return {n for n in {*own, *getattr(kind, "__dataclass_fields__", ())} if not n.startswith("_")}


def test_every_public_name_is_on_the_page() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    missing = {n for n in geminate.__all__ if f"`{n}`" not in page}
    with LLM(threads=1) as llm:
        of_llm = public(LLM) | {n for n in vars(llm) if not n.startswith("_")}
    missing |= {f"LLM.{n}" for n in of_llm if f"LLM.{n}" not in page}
    missing |= {f"ChatSession.{n}" for n in public(ChatSession) if f"ession.{n}" not in page}
    internal = {"resolved", "count_time", "count_round", "behind"}  # of the engine, not of users
    for kind in (Output, Delta, Stats, SamplingParams):
        missing |= {f"{kind.__name__}.{n}" for n in public(kind) - internal if f"`{n}`" not in page}
    assert not missing, sorted(missing)
