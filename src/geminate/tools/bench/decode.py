"""Decoding speed of a pair: plain, fixed draft lengths and auto, in turn on the same prompts."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geminate import __version__, machine
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest
from geminate.engine.stats import Stats
from geminate.errors import GeminateError, ParameterError
from geminate.kv.budget import KVBudget
from geminate.kv.store import BLOCK
from geminate.llm import LLM
from geminate.loading.calibrate import cost_model, measure
from geminate.loading.load import Located, Pair
from geminate.params import ResolvedSampling, SamplingParams
from geminate.speculation.sources.mtp import MtpDrafter
from geminate.tools.bench.step import StepBench
from geminate.tools.bench.synthetic import Coin, synthetic_engine

Mode = Literal["auto", "ngram"] | int
BENCH80 = Path(__file__).parents[2] / "assets" / "prompts" / "bench80.jsonl"


class OutputsDifferError(GeminateError):
    """Speculation changed an output: a bug of the first rank."""


@dataclass(frozen=True, kw_only=True)
class BenchPrompt:
    """A prompt and the category its figures are counted under."""

    category: str
    token_ids: list[int]


@dataclass
class _Tally:
    """Sums over the runs of one mode."""

    seconds: float = 0.0
    tokens: int = 0
    rounds: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)


def read_prompts(path: Path, llm: LLM, limit: int | None) -> list[BenchPrompt]:
    """Prompts of a JSON-lines file with ``prompt`` or ``turns`` (the first counts) and perhaps ``category``.

    Raises:
        ParameterError: unreadable, or no prompts.
    """
    prompts = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in filter(str.strip, lines):
            item = json.loads(line)
            text = item["prompt"] if "prompt" in item else item["turns"][0]
            chat = llm.template is not None
            ids = llm.chat_ids([{"role": "user", "content": text}]) if chat else llm.encode(text)
            prompts.append(BenchPrompt(category=str(item.get("category", "all")), token_ids=ids))
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ParameterError(f"{path}: expected JSON lines with 'prompt' or 'turns'") from None
    if not prompts:
        raise ParameterError(f"{path} holds no prompts")
    return prompts[:limit]


def random_prompts(vocab: int, count: int, length: int = 128) -> list[BenchPrompt]:
    """Prompts of random ids."""
    rng = np.random.default_rng(3)
    return [BenchPrompt(category="random", token_ids=rng.integers(3, vocab, length).tolist()) for _ in range(count)]


def engine_of_shape(bench: StepBench, on_pass: Callable[[], None] | None = None) -> Engine:
    """An engine on the random weights of a real shape, its costs measured.

    Args:
        on_pass: called before every pass that is measured.

    Raises:
        ParameterError: the shape has no drafter.
    """
    if bench.drafter is None:
        raise ParameterError("this shape has no drafter to decode with")
    nowhere = Path()
    pair = Pair(
        located=Located(target=nowhere, drafter=nowhere), source=None, target=bench.target, drafter=bench.drafter
    )
    return Engine(bench.target, MtpDrafter(bench.drafter), costs=cost_model(pair, measure(pair, on_pass=on_pass)))


def behind_context(
    engine: Engine, prompts: list[BenchPrompt], context: int, max_tokens: int
) -> tuple[Engine, list[BenchPrompt]]:
    """The prompts behind ``context`` random ids, and an engine like ``engine`` that computes those ids once.

    Its prefix cache gives every further answer a copy of their keys and values.

    Raises:
        ParameterError: the context leaves no room for the answers.
    """
    longest = context + max(len(prompt.token_ids) for prompt in prompts) + max_tokens
    limit = engine.target.config.max_position_embeddings
    if longest > limit:
        raise ParameterError(
            f"--context {context} with prompt and answer makes {longest} tokens; the model has {limit}"
        )
    ids = np.random.default_rng(4).integers(3, engine.target.config.vocab_size, context).tolist()
    factory = engine.target.kv
    blocks = 2 * (longest // BLOCK + 1)  # those of the context, and of one answer or another
    bounded = Engine(
        engine.target,
        engine.drafter,
        prefill_chunk=engine.scheduler.prefill_chunk,
        memory=KVBudget(factory, limit=factory.nbytes(longest) + blocks * factory.block_bytes),
        costs=engine.timing.costs,
    )
    return bounded, [replace(prompt, token_ids=ids + prompt.token_ids) for prompt in prompts]


def _decode(engine: Engine, ids: list[int], sampling: ResolvedSampling, mode: Mode) -> tuple[list[int], Stats, _Tally]:
    tally = _Tally()
    sequence = engine.add(EngineRequest(request_id="bench", prompt_ids=ids, sampling=sampling, speculation=mode))
    while sequence.finish_reason is None:
        began = time.perf_counter()
        rounds = sequence.stats.rounds
        engine.step()
        if rounds:
            tally.rounds.append(time.perf_counter() - began)
    tally.seconds, tally.tokens = sequence.stats.decode_s, sequence.stats.generated_tokens - 1
    tally.first_token = [sequence.stats.prefill_s]
    return sequence.output_ids, sequence.stats, tally


def run(
    engine: Engine,
    prompts: list[BenchPrompt],
    modes: list[Mode],
    *,
    max_tokens: int,
    repeats: int,
    temperature: float = 0.0,
    context: int = 0,
    coin: Coin | None = None,
    on_run: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure; the JSON object of ``geminate bench decode``. ``modes`` holds 0 (plain), lengths and ``auto``.

    Args:
        context: positions of random ids before every prompt; see `behind_context`.
        coin: verifies in place of the comparison (synthetic acceptance).

    Raises:
        OutputsDifferError: two modes emitted different tokens (never for synthetic acceptance, where they must).
    """
    if context:
        engine, prompts = behind_context(engine, prompts, context, max_tokens)
    if coin is not None:
        engine = synthetic_engine(engine, coin)
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=7, ignore_eos=coin is not None)
    sampling = params.resolved()
    seconds: dict[tuple[int, str, Mode], float] = defaultdict(float)
    tokens: dict[tuple[int, str, Mode], int] = defaultdict(int)
    tallies: dict[Mode, _Tally] = {mode: _Tally() for mode in modes}
    stats: dict[tuple[str, Mode], list[Stats]] = defaultdict(list)
    done = 0
    for mode in modes:
        _decode(engine, prompts[0].token_ids, sampling, mode)  # pages, threads, tables
    if coin is not None:
        coin.reset()
    for repeat in range(repeats):
        for prompt in prompts:
            first: list[int] | None = None
            for mode in modes:
                emitted, stat, tally = _decode(engine, prompt.token_ids, sampling, mode)
                first = emitted if first is None else first
                if emitted != first and not coin:
                    raise OutputsDifferError(f"speculation {mode} changed the output of a {prompt.category} prompt")
                seconds[repeat, prompt.category, mode] += tally.seconds
                tokens[repeat, prompt.category, mode] += tally.tokens
                total = tallies[mode]
                total.seconds, total.tokens = total.seconds + tally.seconds, total.tokens + tally.tokens
                total.rounds += tally.rounds
                total.first_token += tally.first_token
                if repeat == 0:
                    stats[prompt.category, mode].append(stat)
                done += 1
                on_run(done, repeats * len(prompts) * len(modes))
    categories = sorted({p.category for p in prompts})
    # A token's seconds: synthetic runs do not all end at the same token count.
    seconds = {key: s / max(1, tokens[key]) for key, s in seconds.items()}
    return {"context": context} | _report(
        engine, prompts, modes, categories, seconds, tallies, stats, repeats, max_tokens, temperature
    )


def _acceptance(stats: list[Stats]) -> float:
    # The first round of a sequence ends its prefill and has no drafts: it is no round of speculation.
    rounds = sum(s.rounds - 1 for s in stats)
    return 1 + sum(s.accepted for s in stats) / rounds if rounds else 1.0


def _per_position(stats: list[Stats]) -> list[float]:
    longest = max(len(s.drafted_per_position) for s in stats)
    out = []
    for i in range(longest):
        tried = sum(s.drafted_per_position[i] for s in stats if len(s.drafted_per_position) > i)
        passed = sum(s.accepted_per_position[i] for s in stats if len(s.accepted_per_position) > i)
        out.append(round(passed / tried, 3))
    return out


def _report(
    engine: Engine,
    prompts: list[BenchPrompt],
    modes: list[Mode],
    categories: list[str],
    seconds: dict[tuple[int, str, Mode], float],
    tallies: dict[Mode, _Tally],
    stats: dict[tuple[str, Mode], list[Stats]],
    repeats: int,
    max_tokens: int,
    temperature: float,
) -> dict[str, Any]:
    median = statistics.median

    def name(mode: Mode) -> str:
        return "plain" if mode == 0 else str(mode)

    def speedups(mode: Mode) -> dict[str, Any]:
        by_category = {c: median(seconds[r, c, 0] / seconds[r, c, mode] for r in range(repeats)) for c in categories}
        overall = [statistics.mean(seconds[r, c, 0] / seconds[r, c, mode] for c in categories) for r in range(repeats)]
        return {
            "mean": round(statistics.mean(by_category.values()), 3),
            "worst": round(min(by_category.values()), 3),
            "spread": [round(min(overall), 3), round(max(overall), 3)],
            "by_category": {c: round(x, 3) for c, x in by_category.items()},
        }

    every = {mode: [s for c in categories for s in stats[c, mode]] for mode in modes}
    longest = max((m for m in modes if isinstance(m, int)), default=0)
    lengths: dict[str, int] = defaultdict(int)
    for s in every.get("auto", []):
        for k, n in s.draft_lengths.items():
            lengths[str(k)] += n
    backend = engine.target.backend
    return {
        "benchmark": "decode", "version": __version__, "machine": machine.describe(), "isa": backend.isa,
        "threads": backend.threads, "weights": engine.target.store.format, "kv": engine.target.kv_format,
        "prompts": len(prompts), "max_tokens": max_tokens, "temperature": temperature, "repeats": repeats,
        "tokens_per_s": {name(m): round(t.tokens / t.seconds, 2) for m, t in tallies.items()},
        "speedup_auto": speedups("auto") if "auto" in modes else None,
        "speedup": {name(m): speedups(m) for m in modes if m not in (0, "auto")},
        "acceptance_length": {name(m): round(_acceptance(s), 3) for m, s in every.items()},
        "acceptance_length_by_category": {c: round(_acceptance(stats[c, longest]), 3) for c in categories},
        "accepted_per_position": _per_position(every[longest]) if longest else [],
        "round_ms": {
            name(m): {"p50": round(float(np.percentile(t.rounds, 50)) * 1e3, 3),
                      "p99": round(float(np.percentile(t.rounds, 99)) * 1e3, 3)} for m, t in tallies.items()
        },
        "first_token_ms": {name(m): round(median(t.first_token) * 1e3, 2) for m, t in tallies.items()},
        "auto_draft_lengths": dict(sorted(lengths.items(), key=lambda item: int(item[0]))),
        "auto_copied": [sum(s.copied for s in every.get("auto", [])),
                        sum(s.copied_accepted for s in every.get("auto", []))],
        "ceiling": round(max(_acceptance(every[m]) for m in modes), 3),
    }  # fmt: skip
