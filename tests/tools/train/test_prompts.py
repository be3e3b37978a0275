"""Reading training data, holding a part of it out, and answering prompts in a file that survives interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geminate import LLM, SamplingParams
from geminate.errors import TrainingError
from geminate.tools.train.answers import answer_all, read_answers
from geminate.tools.train.prompts import Example, read_examples, split


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


def write(path: Path, *items: object) -> Path:
    path.write_text("\n".join(json.dumps(i) for i in items) + "\n")
    return path


def test_every_form_of_a_line(llm: LLM, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    data = write(
        tmp_path / "d.jsonl",
        {"prompt": "Hi", "category": "a"},
        {"messages": chat},
        {"turns": ["First", "second"]},
        {"text": "Once upon a time there was a cat that lived in a house by the river."},
        {"prompt": "Hi"},
    )
    found = read_examples(data, llm, as_is=False, longest=64)
    assert len(found) == 4, "the same prompt counts once"
    assert found[0].category == "a" and found[1].prompt == llm.chat_ids(chat)
    assert all(e.answer is None for e in found)
    (tmp_path / "e.txt").write_text("A first paragraph of text.\n\nAnd a second one.\n")
    assert len(read_examples(tmp_path, llm, as_is=False, longest=64)) == 6


def test_answers_as_they_are(llm: LLM, tmp_path: Path) -> None:
    data = write(
        tmp_path / "d.jsonl",
        {"prompt": "Hi", "answer": "Hello there"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y z"}]},
        {"text": "one two three four five six seven eight nine ten eleven twelve"},
    )
    found = read_examples(data, llm, as_is=True, longest=64)
    assert llm.tokenizer is not None
    assert [llm.tokenizer.decode(e.answer or []) for e in found[:2]] == ["Hello there", "y z"]
    assert found[2].answer and len(found[2].answer) > len(found[2].prompt)


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "no usable examples"), ("{nope", "line 1: not JSON"), ("[1]", "expected an object"),
     ('{"x": 1}', "expected 'prompt'"), ('{"messages": []}', "must be a list"), ('{"turns": []}', "item 1")],
)  # fmt: skip
def test_bad_lines_are_named(content: str, says: str, llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(TrainingError, match=says):
        read_examples(path, llm, as_is=False, longest=64)


def test_bad_files_are_named(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file"):
        read_examples(tmp_path / "none", llm, as_is=False, longest=64)
    with pytest.raises(TrainingError, match=r"no \.jsonl or \.txt"):
        read_examples(tmp_path, llm, as_is=False, longest=64)
    (tmp_path / "x.txt").write_bytes(b"ab\xff")
    with pytest.raises(TrainingError, match="not UTF-8"):
        read_examples(tmp_path / "x.txt", llm, as_is=False, longest=64)
    with pytest.raises(TrainingError, match="as-is needs an answer"):
        read_examples(write(tmp_path / "d.jsonl", {"prompt": "Hi"}), llm, as_is=True, longest=64)


def example(i: int, category: str = "a") -> Example:
    return Example([2, 3, 5 + i], None, category)


def test_split_is_the_same_every_time_and_covers_categories() -> None:
    many = [example(i, "ab"[i % 2]) for i in range(200)]
    first, second = split(many), split(many[::-1])
    assert {e.key for e in first.held_out} == {e.key for e in second.held_out}
    assert len(first.held_out) == 10 and len(first.training) == 190
    assert [e.category for e in first.held_out].count("a") == 5
    lopsided = split([example(i) for i in range(100)] + [example(1000, "rare")])
    assert all(e.category == "a" for e in lopsided.held_out), "the only example of a category is learned from"
    with pytest.raises(TrainingError, match="too few"):
        split(many[:15])


def test_answers_do_not_depend_on_interruption(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geminate.tools.train.answers.BATCH", 3)
    examples = [Example(llm.encode(f"Story {i}"), None, "a") for i in range(8)]
    sampling = SamplingParams(max_tokens=6, temperature=1.0, seed=4).resolved()
    whole = answer_all(llm.engine, examples, sampling, tmp_path / "a", longest=64)
    answer_all(llm.engine, examples[:4], sampling, tmp_path / "b", longest=64)
    with (tmp_path / "b").open("a") as file:
        file.write('{"key": "half')  # killed while writing
    assert answer_all(llm.engine, examples, sampling, tmp_path / "b", longest=64) == whole
    assert len(read_answers(tmp_path / "b")) == 8
    assert len(set(map(tuple, whole.values()))) > 1
    (tmp_path / "c").write_text("not json\n")
    with pytest.raises(TrainingError, match="damaged"):
        read_answers(tmp_path / "c")
