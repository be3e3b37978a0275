"""Cut prompts from the corpus for `geminate train drafter --data`, which has the target answer them.

Usage: python recipes/embedded_pair/make_prompts.py --corpus DIR --out FILE.jsonl [--count 2560]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

TURN = re.compile(r"<\|turn>(system|user|model)\n(.*?)<turn\|>\n?", re.DOTALL)
ROLES = {"system": "system", "user": "user", "model": "assistant"}


def example_of(text: str, rng: random.Random) -> dict[str, Any]:
    """A line of the data file: a conversation up to a user's turn among its first three, other text whole.

    `geminate train drafter` cuts other text to a beginning by itself.
    """
    turns = [{"role": ROLES[role], "content": content} for role, content in TURN.findall(text)]
    ends = [i + 1 for i, turn in enumerate(turns) if turn["role"] == "user"]
    if not ends:
        return {"text": text.removeprefix("<bos>"), "category": "text"}
    return {"messages": turns[: rng.choice(ends[:3])], "category": "chat"}


def main() -> int:
    """Write JSON lines with ``messages`` or ``text``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("build/embedded_pair/corpus"))
    parser.add_argument("--out", type=Path, default=Path("build/embedded_pair/prompts.jsonl"))
    parser.add_argument("--count", type=int, default=2560)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    source = args.corpus / "train.jsonl"
    if not source.exists():
        print(f"missing: {source}; run prepare_corpus.py first", file=sys.stderr)
        return 2
    rng = random.Random(args.seed)
    lines = source.read_text(encoding="utf-8").splitlines()
    prompts = [example_of(json.loads(rng.choice(lines)), rng) for _ in range(args.count)]
    args.out.write_text("".join(json.dumps(p) + "\n" for p in prompts), encoding="utf-8")
    print(f"{args.out}: {len(prompts)} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
