"""Questions of the embedded pair's corpus as training prompts: the first turn of chats, in an order fixed by a seed."""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

TURN = re.compile(r"<\|turn>user\n(.*?)<turn\|>", re.DOTALL)


def main() -> None:
    """Write ``count`` of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="train.jsonl of the embedded pair's corpus")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = args.corpus.read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)
    found = []
    for line in lines:
        turn = TURN.search(json.loads(line))
        if turn is not None and 8 < len(turn[1]) < 900 and "<|" not in turn[1]:
            found.append(json.dumps({"prompt": turn[1].strip(), "category": "question"}))
        if len(found) == args.count:
            break
    args.out.write_text("\n".join(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
