"""Training prompts for a Gemma 3 base model, from the embedded pair's corpus and the Python standard library.

Usage: python benchmarks/gemma3/prompts.py --corpus build/embedded_pair/corpus/train.jsonl --out prompts.jsonl

A base model has no chat template: chats become "Question: ...\\nAnswer:", texts are cut off in the middle, functions
end after their docstring. None of them are bench80's or HumanEval's: the corpus leaves bench80's items out, and the
standard library holds none of the other.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MOST = {"question": 900, "text": 700, "code": 700}
LONGEST = 900  # characters
TURN = re.compile(r"<\|turn>user\n(.*?)<turn\|>", re.DOTALL)


def corpus_prompts(corpus: Path, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(category, prompt) of documents in random order."""
    lines = corpus.read_text(encoding="utf-8").splitlines()
    rng.shuffle(lines)
    for line in lines:
        text = str(json.loads(line)).removeprefix("<bos>")
        turn = TURN.search(text)
        if turn is not None:
            question = turn[1].strip()
            if 8 < len(question) < LONGEST and "<|" not in question:
                yield "question", question_prompt(question)
        elif len(text) > 400 and "<|" not in text:
            cut = text[: rng.randint(200, 600)]
            yield "text", cut[: cut.rfind(" ")]


def question_prompt(question: str) -> str:
    """How a base model is asked."""
    return f"Question: {question}\nAnswer:"


def code_prompts(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Functions of the standard library up to the end of their docstring."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    rng.shuffle(files)
    for file in files:
        source = file.read_text(encoding="utf-8", errors="ignore")
        lines = source.splitlines()
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                end = node.body[0].end_lineno
                prompt = "\n".join(lines[node.lineno - 1 : end]) + "\n"
                if 60 < len(prompt) < LONGEST:
                    yield "code", prompt


def main() -> None:
    """Write the prompts, shuffled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="train.jsonl of the embedded pair's corpus")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng = random.Random(0)
    counts: Counter[str] = Counter()
    found = []
    for category, prompt in itertools.chain(corpus_prompts(args.corpus, rng), code_prompts(rng)):
        if counts[category] < MOST[category]:
            counts[category] += 1
            found.append({"prompt": prompt, "category": category})
    rng.shuffle(found)
    args.out.write_text("".join(json.dumps(f) + "\n" for f in found), encoding="utf-8")
    print(dict(counts))


if __name__ == "__main__":
    main()
