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
        ("\u2066isolated\x9b2J \ud83d", "\\u2066isolated\\x9b2J \\ud83d"),
        ("\U0001f3f4\u200d\u2620\ufe0f \U0001f468\u200d\U0001f469\u200d\U0001f467 \u200e\u0646\u200c\u0647", None),
        ("\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f soft\u00adhyphen\ta tab", None),
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
