"""Acceptance of drafters on targets and prompts: what a fine-tune costs, what training brings back.

Usage: python benchmarks/adaptation/measure.py --tuned DIR --retrained DIR --requests FILE --json OUT [--seconds S]

Greedy, drafts of four tokens, int8. Requests are those that neither the target nor the drafter was trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.progress import track

import geminate
from geminate import LLM, SamplingParams, machine

EMBEDDED = Path(geminate.__file__).parent / "assets" / "embedded"
BENCH80 = EMBEDDED.parent / "prompts" / "bench80.jsonl"
DRAFT = 4


def acceptance(target: Path, drafter: Path, prompts: list[str], rope_position: Any = "P") -> dict[str, Any]:
    """Tokens a round, survival by position, and speed of the pair on prompts asked as chats."""
    llm = LLM(str(target), drafter=str(drafter), rope_position=rope_position)
    params = SamplingParams(max_tokens=128, temperature=0)
    rounds = tokens = 0
    accepted = [0] * DRAFT
    plain = auto = 0.0
    for prompt in track(prompts, description=f"{drafter.parent.name}/{drafter.name}", transient=True):
        ids = llm.chat_ids([{"role": "user", "content": prompt}])
        stats = llm.generate(ids, params, speculation=DRAFT)[0].stats
        rounds += stats.rounds
        tokens += stats.generated_tokens
        for i, count in enumerate(stats.accepted_per_position):
            accepted[i] += count
        plain += llm.generate(ids, params, speculation="off")[0].stats.decode_s
        auto += llm.generate(ids, params, speculation="auto")[0].stats.decode_s
    return {
        "acceptance_length": round(tokens / rounds, 3),
        "survival": [round(a / rounds, 3) for a in accepted],
        "auto_over_plain": round(plain / auto, 3),
        "prompts": len(prompts),
        "tokens": tokens,
    }


def main() -> int:
    """Measure every combination that means something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuned", type=Path, required=True, help="the fine-tuned target")
    parser.add_argument("--retrained", type=Path, required=True, help="its new drafter")
    parser.add_argument(
        "--requests", type=Path, required=True, help="prompts of the domain, held out from all training"
    )
    parser.add_argument("--seconds", type=float, help="what training the drafter took, answers and gate included")
    parser.add_argument("--rope", type=Path, nargs=2, metavar=("P", "P-1"), help="drafters trained with each position")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    domain = [json.loads(line)["prompt"] for line in args.requests.read_text(encoding="utf-8").splitlines()]
    general = [json.loads(line)["turns"][0] for line in BENCH80.read_text(encoding="utf-8").splitlines()]
    target, stock = EMBEDDED / "target", EMBEDDED / "drafter"
    result: dict[str, Any] = {"machine": machine.describe(), "geminate": geminate.__version__, "guesses": DRAFT}
    for name, pair in {
        "original target, its drafter": (target, stock),
        "tuned target, stock drafter": (args.tuned, stock),
        "tuned target, retrained drafter": (args.tuned, args.retrained),
    }.items():
        result[name] = {"domain": acceptance(*pair, domain), "bench80": acceptance(*pair, general)}
        print(name, json.dumps(result[name]), flush=True)
    before = result["original target, its drafter"]["bench80"]["acceptance_length"]
    for name in ("tuned target, stock drafter", "tuned target, retrained drafter"):
        result[name]["share_of_original_length"] = round(result[name]["domain"]["acceptance_length"] / before, 3)
    if args.rope is not None:
        result["rope_position"] = {
            position: {
                "acceptance": acceptance(target, drafter, general, position),
                "history": json.loads(drafter.with_name(drafter.name + ".json").read_text())["history"],
            }
            for position, drafter in zip(("P", "P-1"), args.rope, strict=True)
        }
    if args.seconds is not None:
        result["training_seconds"] = args.seconds
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
