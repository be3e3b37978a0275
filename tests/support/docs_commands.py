"""The commands that the documentation shows, as lists of words."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

SHELLS = ("", "sh", "bash", "console", "shell")
OPERATORS = frozenset("();<>|&\n")
MAX_LINES = 20  # of one command
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Shown:
    """A command of a page.

    Attributes:
        words: without the program's name. stdin: the words that ``echo`` pipes into it. in_text: it stands within a
            sentence, where its name alone is a name.
    """

    page: str
    words: tuple[str, ...]
    stdin: str | None = None
    in_text: bool = False

    def __str__(self) -> str:
        return f"{self.page}: geminate {' '.join(self.words)}"


def split_page(text: str) -> tuple[list[str], str]:
    """The lines of shell blocks (fenced and indented), a blank one between blocks, and the rest as prose."""
    code: list[str] = []
    prose: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        mark = line.strip()
        if mark.startswith("```"):
            fence = mark[3:].strip() if fence is None else None
            code.append("")
        elif fence is not None:
            if fence in SHELLS:
                code.append(line.strip())
        elif line.startswith("    "):
            code.append(line.strip())
        else:
            code.append("")
            prose.append(line)
    return code, "\n".join(prose)


def words_of(line: str) -> list[str]:
    """The words of a shell line, operators apart and comments gone.

    Raises:
        ValueError: a quotation is not closed.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace_split = True
    lexer.whitespace = " \t"
    return list(lexer)


def shell_commands(lines: list[str], program: str) -> list[list[str]]:
    """Whole commands, over as many lines as they take, that name ``program``; each a list of words."""
    found = []
    for at, line in enumerate(lines):
        if not re.search(rf"(^|[\s/'\"]){program}(\s|$)", line):
            continue
        text = line
        for more in lines[at + 1 : at + MAX_LINES]:
            if text.endswith("\\"):
                text = f"{text[:-1]} {more}"
                continue
            try:
                words_of(text)
                break
            except ValueError:
                text = f"{text}\n{more}"
        try:
            found.append(words_of(text))
        except ValueError:
            continue  # prose or data with an apostrophe
    return found


def simple_commands(words: list[str]) -> list[tuple[list[str], str | None]]:
    """The parts between operators without variables and redirections, each with what ``echo`` pipes into it."""
    parts: list[tuple[list[str], str | None]] = []
    part: list[str] = []
    stdin: str | None = None
    skip = False
    for word in [*words, ";"]:
        if skip:
            skip = False
        elif word and set(word) <= OPERATORS:
            if "<" in word or ">" in word:
                skip = True
                if part and part[-1].isdigit():
                    part.pop()
                continue
            if part:
                parts.append((part, stdin))
            stdin = " ".join(part[1:]) if word == "|" and part and part[0] == "echo" else None
            part = []
        elif part or not _ASSIGNMENT.fullmatch(word):
            part.append(word)
    return parts


def _arguments(words: list[str]) -> list[str] | None:
    """What follows ``geminate`` if that is what runs: itself, in a directory, as a module, or as an image."""
    if words[:2] in (["podman", "run"], ["docker", "run"]):
        places = [i for i, word in enumerate(words) if word == "geminate"]
        return words[places[-1] + 1 :] if places else None
    if re.fullmatch(r"python[\d.]*", words[0]) and words[1:3] == ["-m", "geminate"]:
        return words[3:]
    return words[1:] if Path(words[0]).name == "geminate" else None


def shown_commands(page: Path, name: str) -> list[Shown]:
    """Every ``geminate`` command of a page, those in the text included."""
    code, prose = split_page(page.read_text(encoding="utf-8"))
    lines = [(words, False) for words in shell_commands(code, "geminate") if words]
    for inline in _INLINE.findall(prose):
        text = " ".join(inline.split())
        if re.match(r"([A-Z_]+=\S+ )*geminate ", text):
            lines.append((words_of(text), True))
    found = []
    for words, in_text in lines:
        for part, stdin in simple_commands(words):
            arguments = _arguments(part)
            if arguments:
                found.append(Shown(page=name, words=tuple(arguments), stdin=stdin, in_text=in_text))
    return found


def curls(page: Path, address: str) -> list[list[str]]:
    """Every ``curl`` command of a page that asks ``address``."""
    code, _ = split_page(page.read_text(encoding="utf-8"))
    found = []
    for words in shell_commands(code, "curl"):
        found += [part for part, _ in simple_commands(words) if part[0] == "curl" and any(address in w for w in part)]
    return found
