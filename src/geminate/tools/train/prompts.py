"""Training texts: prompts to be answered by the target, or whole texts as they are; and which of them are held out.

A data file is JSON lines, a JSON list of rows, or plain text (paragraphs separated by empty lines); a directory is all
its ``.jsonl``, ``.json`` and ``.txt`` files in name order. Rows are read by `geminate.tools.train.rows`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geminate.errors import GeminateError, TrainingError
from geminate.llm import LLM
from geminate.params import ResolvedSampling
from geminate.tools.train.rows import Row, Unusable, read_row

HELD_OUT = 0.05
LEAST_HELD_OUT, MOST_HELD_OUT = 8, 96
BEGINNING = 0.25  # share of a plain text that serves as its prompt


@dataclass(frozen=True)
class Example:
    """A prompt as token ids, an answer if the data has one, and its category."""

    prompt: list[int]
    answer: list[int] | None
    category: str

    @property
    def key(self) -> str:
        """Identifies an example, and decides which are held out: a hash of the prompt."""
        return hashlib.sha256(repr(self.prompt).encode()).hexdigest()

    @property
    def choice(self) -> int:
        """For `Engine.add`: decorrelates the noise of examples under one seed."""
        return int(self.key[:7], 16)

    def sampling(self, common: ResolvedSampling, longest: int) -> ResolvedSampling:
        """``common`` with no more tokens than fit into ``longest`` together with the prompt."""
        return replace(common, max_tokens=min(common.max_tokens, longest - len(self.prompt)))


@dataclass(frozen=True)
class Examples:
    """The training part and the held-out part."""

    training: list[Example]
    held_out: list[Example]


@dataclass
class Skipped:
    """Rows that were passed over: how many, and where the first stands, by reason."""

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """One more."""
        count, first = self.reasons.get(reason, (0, where))
        self.reasons[reason] = (count + 1, first)

    @property
    def lines(self) -> list[str]:
        """A line for each reason, the most frequent first."""
        ranked = sorted(self.reasons.items(), key=lambda each: -each[1][0])
        return [f"{count:,} rows left out: {reason} (first: {first})" for reason, (count, first) in ranked]


def read_examples(
    path: Path, llm: LLM, *, as_is: bool, longest: int, on_message: Callable[[str], None] = lambda line: None
) -> list[Example]:
    """All distinct examples of a file or directory.

    Args:
        as_is: answers are taken from the data; otherwise they are ignored, and plain texts cut to a beginning.
        longest: tokens of prompt and answer together; longer examples are cut, prompts of that length left out.
        on_message: called with what was left out, a line for each reason.

    Raises:
        TrainingError: nothing there, unreadable, or no usable example.
    """
    if llm.tokenizer is None:
        raise TrainingError("this target has no tokenizer; put its tokenizer.json beside its weights")
    found: dict[str, Example] = {}
    skipped = Skipped()
    for file in _files(path):
        for where, item in _items(file):
            try:
                if not isinstance(item, dict):
                    raise Unusable("no JSON object")
                example = _example(read_row(item), llm, as_is=as_is, longest=longest)
                if found.setdefault(example.key, example) is not example:
                    raise Unusable("the prompt of another row")
            except Unusable as error:
                skipped.add(str(error), f"{file.name}, {where}")
            except GeminateError as error:  # a template that refuses the order of roles, say
                skipped.add(str(error)[:200], f"{file.name}, {where}")
    if not found:
        raise TrainingError(f"{path} holds no usable examples{''.join(f'; {line}' for line in skipped.lines[:3])}")
    for line in skipped.lines:
        on_message(line)
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".json", ".txt"))
        if not files:
            raise TrainingError(f"{path} holds no .jsonl, .json or .txt files")
        return files
    if not path.exists():
        raise TrainingError(f"no such file or directory: {path}")
    return [path]


def _items(file: Path) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and what it holds; None for what is no JSON."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        hint = "; write its rows as JSON lines first" if file.suffix in (".parquet", ".arrow", ".gz") else ""
        raise TrainingError(f"{file} is not UTF-8 text (byte {error.start}){hint}") from None
    if file.suffix == ".json":
        rows = _parsed(text)
        if not isinstance(rows, list):
            raise TrainingError(f"{file} is not a JSON list of rows; JSON lines have the ending .jsonl")
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
    elif file.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), 1)
        yield from ((f"line {number}", _parsed(line)) for number, line in lines if line.strip())
    else:
        parts = enumerate(text.split("\n\n"), 1)
        yield from ((f"paragraph {number}", {"text": part.strip()}) for number, part in parts if part.strip())


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _example(row: Row, llm: LLM, *, as_is: bool, longest: int) -> Example:
    assert llm.tokenizer is not None  # `read_examples` has checked it
    answer = None
    if row.messages:
        messages = list(row.messages)
        if llm.template is not None:
            prompt = llm.chat_ids(messages)
        else:
            prompt = llm.encode("\n\n".join(m["content"] for m in messages))
        if as_is:
            if row.answer is None:
                raise Unusable("no answer, which --as-is needs")
            answer = llm.tokenizer.encode(row.answer, add_bos=False)
    else:
        ids = llm.encode(row.text)[:longest]
        cut = max(1, int(len(ids) * BEGINNING))
        prompt, answer = (ids[:cut], ids[cut:]) if as_is else (ids[:cut] if len(ids) > 8 else ids, None)
    if not prompt or len(prompt) > longest - 2:
        raise Unusable(f"a prompt of more than {longest - 2} tokens (--max-length)")
    if answer is not None:
        answer = answer[: longest - len(prompt)]
        if not answer:
            raise Unusable("an empty answer")
    return Example(prompt=prompt, answer=answer, category=row.category)


def split(examples: list[Example]) -> Examples:
    """Hold out a twentieth of every category, 8 to 96 examples in all, chosen by hash: the same ones every time.

    Raises:
        TrainingError: too few examples for both.
    """
    if len(examples) < 2 * LEAST_HELD_OUT:
        raise TrainingError(
            f"{len(examples)} examples are too few: {LEAST_HELD_OUT} are held out and as many must stay to learn from"
        )
    want = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, round(HELD_OUT * len(examples))))
    ranked: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: e.key):
        ranked.setdefault(example.category, []).append(example)
    held: set[str] = set()
    place = 0
    while len(held) < want:  # one of each category in turn, none to more than half
        for group in ranked.values():
            if place < len(group) // 2 and len(held) < want:
                held.add(group[place].key)
        place += 1
        if place > len(examples):
            break
    return Examples(
        training=[e for e in examples if e.key not in held], held_out=[e for e in examples if e.key in held]
    )
