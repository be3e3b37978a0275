"""What files name reaches a terminal as text, never as control."""

from __future__ import annotations

import sys

import pytest

from geminate.cli.console import MAX_MESSAGE, printable, write


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b]0;pwned\x07\x1b[31mEVIL\x1b[2J", "\\x1b]0;pwned\\x07\\x1b[31mEVIL\\x1b[2J"),
        ("two\nlines \N{GRINNING FACE} \N{LATIN SMALL LETTER E WITH ACUTE}", None),
        ("\u202eright to left", "\\u202eright to left"),
    ],
)
def test_control_characters_are_escaped(raw: str, shown: str | None) -> None:
    assert printable(raw) == (raw if shown is None else shown)


def test_long_names_are_cut() -> None:
    assert len(printable("x" * 1_000_000)) < MAX_MESSAGE + 100


def test_what_a_model_writes_controls_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", made.append)
    for terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        write("a\tb\n\x1b[2J\x9b \N{ZERO WIDTH JOINER}")
    assert made == ["a\tb\n\\x1b[2J\\x9b \N{ZERO WIDTH JOINER}", "a\tb\n\x1b[2J\x9b \N{ZERO WIDTH JOINER}"]
