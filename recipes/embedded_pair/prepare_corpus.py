"""Build the training corpus: JSON lines of documents, shuffled, benchmark items held out.

Usage:
    python recipes/embedded_pair/prepare_corpus.py --raw DIR --out DIR \
        --held-out src/geminate/assets/prompts/bench80.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import sources
import synthetic


def shingles(text: str, size: int = 8) -> set[str]:
    """Word 8-grams, lower case: two texts that share one share a passage."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def banned_phrases(held_out: Path) -> set[str]:
    """Phrases of the benchmark prompts that no training document may hold."""
    banned: set[str] = set()
    for line in held_out.read_text().splitlines():
        for turn in json.loads(line)["turns"]:
            # The instruction around a passage is common; the passage and the question are what must not leak.
            for part in re.split(r"\n\n|Passage:|Question:", turn):
                if len(part.split()) >= 8:
                    banned |= shingles(part)
                elif len(part.split()) >= 3:
                    banned.add(" ".join(re.findall(r"\w+", part.lower())))
    return banned - {
        phrase
        for question in (
            "Which country is this passage about, and what happened there?",
            "Summarize this text in one sentence.",
            "Why do you think that?",
            "Use the passage to answer.",
        )
        for phrase in shingles(question)
    }


def main() -> int:
    """Write train.jsonl and held_out.jsonl and print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="directory of the unpacked packages")
    parser.add_argument("--held-out", type=Path, required=True, help="benchmark prompts to exclude")
    parser.add_argument("--out", type=Path, default=Path("build/embedded_pair/corpus"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for path in (args.raw, args.held_out):
        if not path.exists():
            print(f"missing: {path}", file=sys.stderr)
            return 2
    rng = random.Random(args.seed)
    banned = banned_phrases(args.held_out)
    readers: dict[str, Iterable[str]] = {
        "chitchat": sources.chitchat(args.raw / "chitchat_dataset"),
        "wordnet": sources.wordnet(args.raw / "wordnet", rng, keep=0.3),
        "austen": sources.austen(args.raw / "r-cran"),
        "factbook": sources.factbook(args.raw / "package", rng),
        "bfcl": sources.bfcl(args.raw / "bfcl_eval"),
        "stdlib": sources.stdlib(4_000_000),
        "synthetic": synthetic.documents(34_000, rng),
    }
    documents: list[str] = []
    for name, reader in readers.items():
        kept = dropped = size = 0
        for text in reader:
            flat = " ".join(re.findall(r"\w+", text.lower()))
            if shingles(text) & banned or any(b in flat for b in _short(banned)):
                dropped += 1
                continue
            kept += 1
            size += len(text.encode())
            documents.append(text)
        print(f"{name}: {kept} documents, {size / 1e6:.2f} MB, {dropped} excluded as benchmark items")
    rng.shuffle(documents)
    args.out.mkdir(parents=True, exist_ok=True)
    cut = len(documents) // 100
    for name, part in (("held_out", documents[:cut]), ("train", documents[cut:])):
        with (args.out / f"{name}.jsonl").open("w") as f:
            f.writelines(json.dumps(text) + "\n" for text in part)
    total = sum(len(d.encode()) for d in documents)
    print(f"total: {len(documents)} documents, {total / 1e6:.1f} MB")
    return 0


_SHORT: list[str] = []


def _short(banned: set[str]) -> list[str]:
    if not _SHORT:
        _SHORT.extend(b for b in banned if 4 <= len(b.split()) < 8)
    return _SHORT


if __name__ == "__main__":
    sys.exit(main())
