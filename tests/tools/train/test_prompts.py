"""Reading training data, holding a part of it out, and answering prompts in a file that survives interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geminate import LLM, SamplingParams
from geminate.errors import TrainingError
from geminate.tools.train.answers import answer_all, read_answers
from geminate.tools.train.prompts import Example, read_examples, split
from geminate.tools.train.rows import read_row


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


ROWS: list[tuple[dict[str, object], str, str | None]] = [
    ({"prompt": "Hi", "completion": "Hello"}, "Hi", "Hello"),
    ({"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "A"}]}, "Hi", "A"),
    ({"instruction": "Sum up.", "input": "A text.", "output": "Short."}, "Sum up.\n\nA text.", "Short."),
    ({"instruction": "Say it.", "input": "", "output": ""}, "Say it.", ""),
    ({"question": "Why?", "response": "So."}, "Why?", "So."),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}, "Hi", "Yes"),
    ({"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}, "Hi", "Yes"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]},
     "Hi", None),
    ({"turns": ["Hi", "And then?"]}, "Hi", None),
]  # fmt: skip


@pytest.mark.parametrize(("item", "asked", "answer"), ROWS)
def test_rows_as_people_have_them(item: dict[str, object], asked: str, answer: str | None) -> None:
    row = read_row(item)
    assert [m["content"] for m in row.messages] == [asked] and row.answer == answer


def test_a_conversation_is_asked_to_its_last_answer() -> None:
    said = [("system", "Be brief."), ("human", "One?"), ("gpt", "1"), ("human", "Two?"), ("gpt", "2")]
    row = read_row({"conversations": [{"from": who, "value": text} for who, text in said]})
    assert [m["role"] for m in row.messages] == ["system", "user", "assistant", "user"] and row.answer == "2"
    row = read_row({"system": "Be brief.", "instruction": "Two?", "output": "2"})
    assert [m["role"] for m in row.messages] == ["system", "user"]


UNUSABLE: list[tuple[str, str]] = [
    ("{nope", "no JSON object"), ("[1]", "no JSON object"), ('{"x": 1}', "none of the fields messages, conversations"),
    ('{"messages": []}', "messages that is no list"), ('{"turns": []}', "none of the fields"),
    ('{"conversations": [{"from": "function_call", "value": "f()"}]}', "a role other than"),
    ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "a message that is not text"),
    ('{"messages": [{"role": "assistant", "content": "Hi"}]}', "no turn of a user"),
    ('{"prompt": "' + "many words " * 80 + '"}', r"a prompt of more than 62 tokens \(--max-length\)"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "says"), UNUSABLE)
def test_what_is_left_out_is_said(content: str, says: str, llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "Hi"}\n' + content + "\n\n" + content + "\n")
    said: list[str] = []
    assert len(read_examples(path, llm, as_is=False, longest=64, on_message=said.append)) == 1
    assert len(said) == 1 and said[0].startswith("2 rows left out: ") and said[0].endswith("(first: d.jsonl, line 2)")
    with pytest.raises(TrainingError, match=rf"no usable examples; 1 rows left out: .*{says}"):
        path.write_text(content)
        read_examples(path, llm, as_is=False, longest=64)


def test_bad_files_are_named(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file"):
        read_examples(tmp_path / "none", llm, as_is=False, longest=64)
    with pytest.raises(TrainingError, match=r"no \.jsonl, \.json or \.txt"):
        read_examples(tmp_path, llm, as_is=False, longest=64)
    (tmp_path / "x.txt").write_bytes(b"ab\xff")
    with pytest.raises(TrainingError, match="not UTF-8"):
        read_examples(tmp_path / "x.txt", llm, as_is=False, longest=64)
    (tmp_path / "x.json").write_text('{"prompt": "Hi"}')
    with pytest.raises(TrainingError, match="not a JSON list of rows"):
        read_examples(tmp_path / "x.json", llm, as_is=False, longest=64)
    (tmp_path / "x.json").write_text('[{"prompt": "Hi"}, {"prompt": "Ho"}, 7]')
    assert len(read_examples(tmp_path / "x.json", llm, as_is=False, longest=64)) == 2
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(TrainingError, match=r"x\.jsonl holds no usable examples$"):
        read_examples(tmp_path / "x.jsonl", llm, as_is=False, longest=64)
    with pytest.raises(TrainingError, match="no answer, which --as-is needs"):
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
