"""Speed and acceptance on Gemma 3 270M, beside llama-cpp-python on the same file, all in one process and one run.

Usage: python benchmarks/gemma3/measure.py --model FILE.gguf --drafter DIR --human-eval HumanEval.jsonl.gz --json OUT

Every prompt is decoded greedily, to the same number of tokens, by our engine plain, by our engine with auto, and by
llama-cpp-python, in an order that turns from prompt to prompt. Outputs with speculation on and off must be equal.
Tokens per second are those after the first; medians over prompts, ratios prompt by prompt.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from prompts import question_prompt
from rich.progress import track

import geminate
from geminate import LLM, SamplingParams, machine

BENCH80 = Path(geminate.__file__).parent / "assets" / "prompts" / "bench80.jsonl"


def read_prompts(human_eval: Path, limit: int | None) -> list[tuple[str, str, str]]:
    """(set, category, prompt); a base model sees bench80's first turns as questions."""
    found = []
    for line in BENCH80.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        found.append(("bench80", str(item["category"]), question_prompt(item["turns"][0])))
    with gzip.open(human_eval, "rt", encoding="utf-8") as f:
        code = [("human_eval", "code", str(json.loads(line)["prompt"])) for line in f]
    return [*found[:limit], *code[:limit]]


class Llama:
    """llama-cpp-python, greedy."""

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self.version = llama_cpp.__version__
        self.llama = llama_cpp.Llama(
            str(model), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False, logits_all=False
        )

    def speed(self, ids: list[int], count: int) -> tuple[float, list[int]]:
        """Tokens per second after the first, and the tokens."""
        self.llama.reset()
        out: list[int] = []
        began = 0.0
        for token in self.llama.generate(ids, temp=0.0, top_k=1):
            out.append(token)
            if len(out) == 1:
                began = time.perf_counter()
            if len(out) == count:
                break
        return (count - 1) / (time.perf_counter() - began), out


def survival(accepted: list[int], rounds: int) -> list[float]:
    """Share of rounds in which draft tokens 1 .. i were all accepted."""
    return [round(a / rounds, 3) for a in accepted] if rounds else []


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over prompts, and acceptance pooled."""
    body: dict[str, Any] = {"prompts": len(rows)}
    for name in ("plain", "auto", "fixed", "llama_cpp"):
        if rows and name in rows[0]:
            body[f"{name}_tokens_per_s"] = round(statistics.median(r[name] for r in rows), 1)
    body["auto_over_plain"] = round(statistics.median(r["auto"] / r["plain"] for r in rows), 3)
    if "llama_cpp" in rows[0]:
        body["plain_over_llama_cpp"] = round(statistics.median(r["plain"] / r["llama_cpp"] for r in rows), 3)
        body["auto_over_llama_cpp"] = round(statistics.median(r["auto"] / r["llama_cpp"] for r in rows), 3)
    tokens = sum(r["tokens"] for r in rows)
    body["auto_over_plain_total"] = round(
        sum(r["tokens"] / r["plain"] for r in rows) / sum(r["tokens"] / r["auto"] for r in rows), 3
    )
    rounds = sum(r["fixed_rounds"] for r in rows)
    by_position = [sum(r["fixed_accepted"][i] for r in rows) for i in range(len(rows[0]["fixed_accepted"]))]
    body["acceptance_length_k4"] = round(1 + sum(by_position) / rounds, 3)
    body["survival_k4"] = survival(by_position, rounds)
    body["acceptance_length_auto"] = round(tokens / sum(r["auto_rounds"] for r in rows), 3)
    body["copied_share_auto"] = round(sum(r["auto_copied"] for r in rows) / tokens, 3)
    return body


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--drafter", required=True)
    parser.add_argument("--human-eval", type=Path, required=True, help="HumanEval.jsonl.gz")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--limit", type=int, help="prompts of each set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-llama-cpp", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> int:
    """Run and report; exit code 1 if an output differs."""
    args = arguments()
    llm = LLM(str(args.model), drafter=args.drafter, weights=args.weights, threads=args.threads)
    assert llm.tokenizer is not None
    other = None if args.no_llama_cpp else Llama(args.model, args.threads)
    params = SamplingParams(max_tokens=args.max_tokens, temperature=0, ignore_eos=True)
    rows: list[dict[str, Any]] = []
    same = agree = 0
    for number, (which, category, prompt) in enumerate(track(read_prompts(args.human_eval, args.limit))):
        ids = llm.tokenizer.encode(prompt)
        row: dict[str, Any] = {"set": which, "category": category, "tokens": args.max_tokens}
        outputs = {}
        modes = ["plain", "auto", "fixed", *(["llama_cpp"] if other else [])]
        turned = modes[number % len(modes) :] + modes[: number % len(modes)]
        for mode in turned:
            if mode == "llama_cpp":
                assert other is not None
                row[mode], outputs[mode] = other.speed(ids, args.max_tokens)
                continue
            setting: Any = {"plain": "off", "auto": "auto", "fixed": 4}[mode]
            made = llm.generate(ids, params, speculation=setting)[0]
            row[mode], outputs[mode] = made.stats.tokens_per_s, made.token_ids
            if mode == "auto":
                row["auto_rounds"], row["auto_copied"] = made.stats.rounds, made.stats.copied_accepted
            if mode == "fixed":
                row["fixed_rounds"] = made.stats.rounds
                row["fixed_accepted"] = (made.stats.accepted_per_position + [0] * 4)[:4]
        same += outputs["plain"] == outputs["auto"] == outputs["fixed"]
        agree += outputs.get("llama_cpp") == outputs["plain"]
        rows.append(row)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["set"]].append(row)
        if row["set"] == "bench80":
            groups[f"bench80/{row['category']}"].append(row)
    result = {
        "machine": machine.describe(), "geminate": geminate.__version__, "threads": args.threads,
        "llama_cpp_python": None if other is None else other.version, "model": args.model.name,
        "model_bytes": args.model.stat().st_size, "weights": llm.pair.target.store.format,
        "streamed_bytes": sum(llm.pair.target.store.bytes_by_format().values()),
        "backend": llm.pair.target.backend.isa, "max_tokens": args.max_tokens,
        "identical": same == len(rows), "identical_prompts": same, "prompts": len(rows),
        "same_text_as_llama_cpp": agree, "results": {name: summary(part) for name, part in groups.items()},
    }  # fmt: skip
    for name, part in result["results"].items():
        print(name, json.dumps(part))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
