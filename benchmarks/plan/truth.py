"""Predicts and then measures the same load on this machine: how far `geminate plan` is from the truth.

Usage: python benchmarks/plan/truth.py [--quick] [--json benchmarks/plan/truth.json] [--fresh]

Constant clients on the engine itself, in this process: E2B int4 and int8 and the Gemma 3 270M shape with random
weights, and the embedded pair; 1 and 2 threads; 128 and 8,192 tokens of context (embedded pair: 1,536); speculation off
and auto; 1, 4 and 8 clients. A long context comes from the prefix cache, in the prediction too. Drafts are accepted by
a seeded coin at published rates, since random weights accept none. Pass costs are measured first, the load is predicted
from them, and then run. Cells that the JSON file holds for this machine are not run again (--fresh does), so a run that
was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from geminate import LLM, machine
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest, Speculation
from geminate.kv.budget import KVBudget
from geminate.params import SamplingParams
from geminate.plan.costs import AttentionCosts
from geminate.replacing import replacing
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.speculation.costs import CostModel
from geminate.speculation.sources.mtp import MtpDrafter
from geminate.tools.bench.step import StepBench
from geminate.tools.bench.synthetic import Coin
from geminate.tools.capacity.measure import measure_costs
from geminate.tools.capacity.models import ACCEPTANCE, Candidate, make_candidate
from geminate.tools.capacity.pass_costs import PassCosts
from geminate.tools.capacity.simulate import Run, ServerLimits, Simulated, quantile
from geminate.tools.capacity.stand_in import prompt_ids
from geminate.tools.capacity.workload import Request

HERE = Path(__file__).parent
SURVIVAL = ACCEPTANCE["published"][0]
SHORT, LONG, LONG_SMALL = 128, 8192, 1536
OWN = 32  # tokens of a prompt behind a long context
CLIENTS = (1, 4, 8)
TOKENS = 24
THROUGHPUT, FIRST_TOKEN = 0.15, 0.25  # the marks
MODELS = (("gemma-4-E2B", "int4"), ("gemma-4-E2B", "int8"), (str(HERE / "gemma-3-270m"), "int8"), ("embedded", "int8"))


@dataclass(frozen=True)
class Cell:
    """One load on one model."""

    model: str
    weights: str
    threads: int
    context: int
    speculation: str
    clients: int

    @property
    def key(self) -> str:
        """Its name in the JSON file."""
        name = Path(self.model).name
        return f"{name} {self.weights}, {self.threads} threads, {self.context}, {self.speculation}, {self.clients}"


def cells(quick: bool) -> Iterator[tuple[tuple[str, str, int], list[Cell]]]:
    """Cells by model and threads, which share one loading and one measurement."""
    for model, weights in (MODELS[0], MODELS[3]) if quick else MODELS:
        for threads in (2,) if quick else (1, 2):
            contexts = (SHORT,) if quick else (SHORT, LONG_SMALL if model == "embedded" else LONG)
            yield (
                (model, weights, threads),
                [
                    Cell(model, weights, threads, context, speculation, clients)
                    for context in contexts
                    for speculation in ("off", "auto")
                    for clients in CLIENTS
                ],
            )


def requests_of(cell: Cell) -> tuple[list[Request], list[Request]]:
    """The requests of a cell, and those that fill the prefix cache before."""
    count = max(4, 2 * cell.clients)
    tokens = TOKENS * (8 if cell.model == "embedded" else 1)
    if cell.context == SHORT:
        plain = [Request(index=i, arrival=0.0, prompt=SHORT, completion=tokens) for i in range(1, count + 1)]
        return plain, []
    shared = {"prefix": 0, "prefix_tokens": cell.context}
    long = [
        Request(index=i, arrival=0.0, prompt=cell.context + OWN, completion=tokens, **shared)
        for i in range(1, count + 1)
    ]
    return long, [Request(index=0, arrival=0.0, prompt=cell.context + OWN, completion=1, **shared)]


class Pair:
    """A compiled pair and its candidate."""

    def __init__(self, model: str, weights: Any, threads: int) -> None:
        self.candidate: Candidate = make_candidate(model, weights, "f16")
        self.target: TargetModel
        self.drafter: DrafterModel | None
        if model == "embedded":
            pair = LLM(threads=threads, weights=weights).pair
            self.target, self.drafter = pair.target, pair.drafter
        else:
            bench = StepBench(model, weights, threads=threads)
            self.target, self.drafter = bench.target, bench.drafter

    def limits(self, cell: Cell, before: Sequence[Request], requests: Sequence[Request]) -> ServerLimits:
        """A KV budget that holds all clients and the prefix cache."""
        longest = max(request.prompt + request.completion for request in [*before, *requests])
        size = (cell.clients + 2) * self.target.kv.nbytes(longest)
        size += 4 * (longest // 64 + 1) * cell.clients * self.target.kv.block_bytes
        return ServerLimits(kv_bytes=size)


def predicted(pair: Pair, cell: Cell, costs: PassCosts) -> Run:
    """By the simulation."""
    requests, before = requests_of(cell)
    what = Simulated(
        config=pair.candidate.config,
        work=pair.candidate.work,
        costs=costs,
        speculation="auto" if cell.speculation == "auto" else 0,
        survival=SURVIVAL if pair.drafter is not None else (),
        limits=pair.limits(cell, before, requests),
    )
    return what.closed_loop(requests, max(request.completion for request in requests), cell.clients, before)


def measured(pair: Pair, cell: Cell, costs: PassCosts) -> dict[str, float]:
    """By the engine, with the same requests."""
    requests, before = requests_of(cell)
    draft = None if pair.drafter is None else AttentionCosts(pair.drafter.plan)
    engine = Engine(
        pair.target,
        None if pair.drafter is None else MtpDrafter(pair.drafter),
        max_running=ServerLimits().max_running,
        memory=KVBudget(pair.target.kv, limit=pair.limits(cell, before, requests).kv_bytes or 0),
        costs=CostModel(costs.profile(), target=AttentionCosts(pair.target.plan), drafter=draft),
        verifier=Coin(list(SURVIVAL)),
        copies=False,
    )
    _drive(engine, before, cell, 1)
    _touch(pair.limits(cell, before, requests).kv_bytes or 0)
    began = time.perf_counter()
    first, tokens = _drive(engine, requests, cell, cell.clients)
    return {"tokens_per_s": tokens / (time.perf_counter() - began), "first_token_p95": quantile(first, 0.95)}


def _touch(size: int) -> None:
    """Write to memory that caches are about to get.

    A hypervisor may take back what a guest does not use. Its first touch after that takes 1.5 ms a megabyte on the
    machine of the committed figures, twenty times as long as later ones; nothing predicts that.
    """
    np.empty(size, dtype=np.uint8).fill(1)


def _drive(engine: Engine, requests: Sequence[Request], cell: Cell, clients: int) -> tuple[list[float], int]:
    """Times to the first token, and completion tokens."""
    coming, sent, first, tokens = deque(requests), dict[str, float](), list[float](), 0
    speculation: Speculation = "auto" if cell.speculation == "auto" else 0
    vocab = engine.target.config.vocab_size
    waiting = set[str]()
    while coming or sent:
        while coming and len(sent) < clients:
            request = coming.popleft()
            sampling = replace(
                SamplingParams(max_tokens=request.completion, temperature=0.0, ignore_eos=True).resolved(),
                seed=request.index,
            )
            name = str(request.index)
            sent[name] = time.perf_counter()
            waiting.add(name)
            engine.add(
                EngineRequest(
                    request_id=name,
                    prompt_ids=prompt_ids(request.index, request.prompt, request.prefix, request.prefix_tokens, vocab),
                    sampling=sampling,
                    speculation=speculation,
                )
            )
        for event in engine.step():
            if event.error is not None:
                raise event.error
            if event.token_ids and event.request_id in waiting:
                waiting.discard(event.request_id)
                first.append(time.perf_counter() - sent[event.request_id])
            tokens += len(event.token_ids)
            if event.finish_reason is not None:
                del sent[event.request_id]
    return first, tokens


def compare(pair: Pair, cell: Cell, costs: PassCosts) -> dict[str, Any]:
    """Both, and predicted over measured."""
    guess, truth = predicted(pair, cell, costs), measured(pair, cell, costs)
    return {
        "predicted": {
            "tokens_per_s": round(guess.tokens_per_s, 3),
            "first_token_p95": round(guess.first_token(0.95), 5),
        },
        "measured": {name: round(value, 5) for name, value in truth.items()},
        "throughput": round(guess.tokens_per_s / truth["tokens_per_s"], 3),
        "first_token": round(guess.first_token(0.95) / truth["first_token_p95"], 3),
    }


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """How many cells keep the marks, and how far the others are."""
    throughput = [abs(cell["throughput"] - 1) for cell in results.values()]
    first = [abs(cell["first_token"] - 1) for cell in results.values()]
    return {
        "cells": len(results),
        "throughput_within_15_percent": sum(x <= THROUGHPUT for x in throughput),
        "first_token_within_25_percent": sum(x <= FIRST_TOKEN for x in first),
        "throughput_error": {"median": round(statistics.median(throughput), 3), "max": round(max(throughput), 3)},
        "first_token_error": {"median": round(statistics.median(first), 3), "max": round(max(first), 3)},
    }


def main() -> int:
    """Run what is missing, write after every cell, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="E2B int4 and the embedded pair, 2 threads, short context")
    parser.add_argument("--json", type=Path, default=HERE / "truth.json")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    args = parser.parse_args()
    console = Console(stderr=True)
    kept = {} if args.fresh or not args.json.exists() else json.loads(args.json.read_text())
    results: dict[str, Any] = kept.get("cells", {}) if kept.get("machine") == machine.describe() else {}
    for (model, weights, threads), some in cells(args.quick):
        missing = [cell for cell in some if cell.key not in results]
        if not missing:
            continue
        console.print(f"{Path(model).name} {weights}, {threads} threads: loading, measuring pass costs", markup=False)
        pair = Pair(model, weights, threads)
        found = measure_costs(pair.target, pair.drafter)
        if not found.quiet:
            console.print("  something else runs on this machine: these cells say little")
        costs = found.costs
        for cell in missing:
            results[cell.key] = compare(pair, cell, costs)
            one = results[cell.key]
            console.print(
                f"  {cell.key}: {one['measured']['tokens_per_s']:.1f} tokens/s (x {one['throughput']:.2f}), "
                f"first token {one['measured']['first_token_p95']:.3f} s (x {one['first_token']:.2f})",
                markup=False,
                soft_wrap=True,
            )
            body = {"machine": machine.describe(), "summary": summary(results), "cells": results}
            with replacing(args.json, ".truth-") as file:
                file.write((json.dumps(body, indent=1) + "\n").encode())
        del pair
    print_table(results)
    return 0


def print_table(results: dict[str, Any]) -> None:
    """All cells, and the summary as the last line in JSON."""
    table = Table(box=None)
    for name in ("cell", "tokens/s", "predicted", "ratio", "first token p95 s", "predicted", "ratio"):
        table.add_column(name, justify="left" if name == "cell" else "right")
    for key, cell in results.items():
        truth, guess = cell["measured"], cell["predicted"]
        table.add_row(
            key, f"{truth['tokens_per_s']:.1f}", f"{guess['tokens_per_s']:.1f}", f"{cell['throughput']:.2f}",
            f"{truth['first_token_p95']:.3f}", f"{guess['first_token_p95']:.3f}", f"{cell['first_token']:.2f}",
        )  # fmt: skip
    Console().print(table)
    print(json.dumps(summary(results)))


if __name__ == "__main__":
    raise SystemExit(main())
