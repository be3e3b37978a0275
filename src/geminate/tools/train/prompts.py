"""Training texts: prompts to be answered by the target, or whole texts as they are; and which of them are held out.

A data file is JSON lines or plain text (paragraphs separated by empty lines); a directory is all its ``.jsonl`` and
``.txt`` files in name order. A JSON line holds one of

- ``prompt`` (a string), perhaps ``answer``, ``completion`` or ``response``;
- ``messages`` or ``turns`` (chat; ``turns`` are the user's), the last answer being the one to learn if it is there;
- ``text``: a text to be learned as it is, or begun.

and perhaps ``category``, under which held-out figures are counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geminate.errors import GeminateError, TrainingError
from geminate.llm import LLM
from geminate.params import ResolvedSampling

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


def read_examples(path: Path, llm: LLM, *, as_is: bool, longest: int) -> list[Example]:
    """All distinct examples of a file or directory.

    Args:
        as_is: answers are taken from the data; otherwise they are ignored, and plain texts cut to a beginning.
        longest: tokens of prompt and answer together; longer examples are cut, prompts of that length left out.

    Raises:
        TrainingError: nothing there, unreadable, or no usable example.
    """
    files = _files(path)
    found: dict[str, Example] = {}
    for file in files:
        for number, item in _items(file):
            try:
                example = _example(item, llm, as_is=as_is, longest=longest)
            except (LookupError, TypeError, ValueError, GeminateError) as error:
                raise TrainingError(f"{file}, item {number}: {error}") from None
            if example is not None:
                found.setdefault(example.key, example)
    if not found:
        raise TrainingError(f"{path} holds no usable examples (of at least 2 tokens, at most {longest})")
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".txt"))
        if not files:
            raise TrainingError(f"{path} holds no .jsonl or .txt files")
        return files
    if not path.exists():
        raise TrainingError(f"no such file or directory: {path}")
    return [path]


def _items(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TrainingError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from None
    if file.suffix != ".jsonl":
        for number, part in enumerate(text.split("\n\n"), 1):
            if part.strip():
                yield number, {"text": part.strip()}
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            raise TrainingError(f"{file}, line {number}: not JSON") from None
        if not isinstance(item, dict):
            raise TrainingError(f"{file}, line {number}: expected an object with 'prompt', 'messages' or 'text'")
        yield number, item


def _example(item: dict[str, Any], llm: LLM, *, as_is: bool, longest: int) -> Example | None:
    category = str(item.get("category", "all"))
    messages = item.get("messages")
    if messages is None and "turns" in item:
        messages = [{"role": "user", "content": str(item["turns"][0])}]
    answer_text = next((str(item[n]) for n in ("answer", "completion", "response") if n in item), None)
    if messages is None and "prompt" in item:
        messages = [{"role": "user", "content": str(item["prompt"])}]
    if messages is not None:
        if not isinstance(messages, list) or not messages:
            raise ValueError("'messages' must be a list of {role, content}")
        if messages[-1].get("role") == "assistant":
            answer_text, messages = str(messages[-1]["content"]), messages[:-1]
        if llm.template is not None:
            prompt = llm.chat_ids(messages)
        else:
            prompt = llm.encode("\n\n".join(str(m["content"]) for m in messages))
        answer = None
        if as_is:
            if answer_text is None:
                raise ValueError("--as-is needs an answer in every line ('answer', or a last assistant message)")
            assert llm.tokenizer is not None  # it encoded the prompt
            answer = llm.tokenizer.encode(answer_text, add_bos=False)
    elif "text" in item:
        ids = llm.encode(str(item["text"]))[:longest]
        cut = max(1, int(len(ids) * BEGINNING))
        prompt, answer = (ids[:cut], ids[cut:]) if as_is else (ids[:cut] if len(ids) > 8 else ids, None)
    else:
        raise ValueError("expected 'prompt', 'messages', 'turns' or 'text'")
    if not prompt or len(prompt) > longest - 2:
        return None
    if answer is not None:
        answer = answer[: longest - len(prompt)]
        if not answer:
            return None
    return Example(prompt=prompt, answer=answer, category=category)


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
