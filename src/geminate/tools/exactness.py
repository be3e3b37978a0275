"""The proof that speculation changes nothing: the same prompts under many settings, tokens and logits compared.

A *run* is one prompt under one choice of every setting. By default the runs of a prompt are a covering array: every
value occurs, and every pair of values of two settings (speculation, threads, chunk, batch, greedy or sampled, KV
format) occurs together; the two temperatures alternate in the sampled runs. The array is found greedily, in a fixed
order. A batch is the prompt alone, or as in a server: among other sequences that come and go, starting from the prefix
cache of an earlier run; or alone behind keys and values that another engine left in a prefix store. ``full`` runs the
cross product. Greedy and sampled runs differ from each other by intent, and so do KV formats; runs with the same
temperature and KV format must give the same token ids and the same hash over the logits of every emitted position.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.sequence import Sequence
from geminate.kv.budget import KVBudget
from geminate.kv.prefix_store import PrefixStore
from geminate.kv.store import KVFormat
from geminate.llm import LLM
from geminate.loading.identity import kv_identity
from geminate.params import SamplingParams

BatchKind = Literal["alone", "others", "stored"]
SPECULATION: tuple[int | str, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, "ngram", "auto")
TEMPERATURES = (0.0, 0.7, 1.2)
CHUNKS = (256, 7)
BATCHES: tuple[BatchKind, ...] = ("alone", "others", "stored")
OTHERS = 7  # sequences beside the one under test


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One choice of every setting."""

    speculation: int | str
    threads: int
    prefill_chunk: int
    batch: BatchKind
    temperature: float
    kv: KVFormat = "f16"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first disagreement of two runs.

    Attributes:
        position: absolute position of the first token or logits that differ.
        plain_top, other_top: the two largest logits there as (token, logit), by run.
    """

    prompt: int
    position: int
    plain: Setting
    other: Setting
    plain_token: int | None
    other_token: int | None
    plain_top: list[tuple[int, float]]
    other_top: list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a verification found; ``identical`` only if every run agreed.

    Attributes:
        logits_hash: over the logits of the first KV format. kv_hashes: of every KV format.
        reused: prompt tokens taken from the prefix cache or the prefix store.
    """

    identical: bool
    prompts: int
    tokens: int
    runs: int
    logits_hash: str
    difference: Difference | None
    kv_hashes: dict[str, str] = field(default_factory=dict)
    reused: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Run:
    ids: tuple[int, ...]
    hashes: tuple[bytes, ...]  # one per emitted position
    tops: tuple[list[tuple[int, float]], ...]
    reused: int


def settings(threads: Seq[int], *, drafter: bool, full: bool, kvs: Seq[KVFormat] = ("f16",)) -> list[Setting]:
    """The runs of one prompt, plain decoding of every temperature and KV format first."""
    speculation = SPECULATION if drafter else (0, "ngram")
    plain = [(0, threads[-1], CHUNKS[0], BATCHES[0], t, kv) for kv in kvs for t in TEMPERATURES]
    if full:
        chosen = list(itertools.product(speculation, threads, CHUNKS, BATCHES, TEMPERATURES, kvs))
    else:
        sampled = itertools.cycle(TEMPERATURES[1:])
        covering = _covering([speculation, tuple(threads), CHUNKS, BATCHES, ("greedy", "sampled"), tuple(kvs)])
        chosen = [(s, n, c, o, 0.0 if way == "greedy" else next(sampled), kv) for s, n, c, o, way, kv in covering]
    ordered = plain + [c for c in chosen if c not in plain]
    return [
        Setting(speculation=s, threads=n, prefill_chunk=c, batch=o, temperature=t, kv=kv)
        for s, n, c, o, t, kv in ordered
    ]


def _covering(values: list[Seq[Any]]) -> list[tuple[Any, ...]]:
    """Greedy pairwise covering array: the run that covers most uncovered pairs joins, until none is left.

    Returns the runs beside the plain ones (no speculation, last thread count, first chunk, alone, either drawing, every
    KV format).
    """
    every = list(itertools.product(*values))
    missing = {
        (i, a, j, b) for i, j in itertools.combinations(range(len(values)), 2) for a in values[i] for b in values[j]
    }

    def pairs(run: tuple[Any, ...]) -> set[tuple[int, Any, int, Any]]:
        return {(i, run[i], j, run[j]) for i, j in itertools.combinations(range(len(run)), 2)}

    for way, kv in itertools.product(values[4], values[5]):  # the plain runs take part anyway
        missing -= pairs((0, values[1][-1], values[2][0], values[3][0], way, kv))
    chosen: list[tuple[Any, ...]] = []
    while missing:
        best = max(every, key=lambda run: len(pairs(run) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def _run(llm: LLM, prompt: list[int], setting: Setting, params: SamplingParams) -> _Run:
    mine = replace(params, temperature=setting.temperature, seed=7 if params.seed is None else params.seed)
    request = llm.request(prompt, mine, speculation=setting.speculation, want_logits=True)
    if setting.batch == "alone":
        engine = llm.new_engine(prefill_chunk=setting.prefill_chunk, costs=llm.engine.timing.costs)
        sequence = engine.add(request)
        events = engine.run()
    elif setting.batch == "stored":
        sequence, events = _behind_store(llm, request, setting, mine)
    else:
        sequence, events = _among_others(llm, request, setting, mine)
    hashes: list[bytes] = []
    tops: list[list[tuple[int, float]]] = []
    for event in events:
        if event.request_id != request.request_id or event.logits is None:
            continue
        for logits in event.logits:
            hashes.append(hashlib.blake2b(logits.tobytes(), digest_size=16).digest())
            two = np.argpartition(logits, -2)[-2:]
            tops.append(sorted(((int(t), float(logits[t])) for t in two), key=lambda top: -top[1]))
    return _Run(tuple(sequence.output_ids), tuple(hashes), tuple(tops), sequence.stats.reused_tokens)


def _among_others(
    llm: LLM, request: EngineRequest, setting: Setting, params: SamplingParams
) -> tuple[Sequence, list[EngineEvent]]:
    """The sequence and all events in an engine like a server's, whose other sequences come and go."""
    target, chunk = llm.pair.target, setting.prefill_chunk
    memory = KVBudget(target.kv, limit=1 << 62)
    engine = llm.new_engine(
        prefill_chunk=chunk, prefill_share=min(32, chunk), memory=memory, costs=llm.engine.timing.costs
    )
    prompt = list(request.prompt_ids)

    def add(ids: list[int], sampling: SamplingParams, speculation: int | str) -> None:
        engine.add(llm.request(ids, sampling, speculation=speculation))

    add(prompt, replace(params, max_tokens=1), 0)
    engine.run()
    # Every other one is like the prompt up to a token of its own, of another length, and ends at another time.
    waiting = [
        ([*prompt[: 1 + len(prompt) * i // OTHERS], i + 3], replace(params, max_tokens=1 + 9 * i, seed=i))
        for i in range(OTHERS)
    ]
    for other, theirs in waiting[::2]:
        add(other, theirs, setting.speculation)
    events = engine.step()
    sequence = engine.add(request)
    for other, theirs in waiting[1::2]:
        events += engine.step()
        add(other, theirs, 0)
    return sequence, events + engine.run()


def _behind_store(
    llm: LLM, request: EngineRequest, setting: Setting, params: SamplingParams
) -> tuple[Sequence, list[EngineEvent]]:
    """The sequence alone in an engine that reads from disk what another engine wrote there."""
    target = llm.pair.target

    def engine_over(directory: str) -> tuple[Engine, PrefixStore]:
        engine = llm.new_engine(prefill_chunk=setting.prefill_chunk, costs=llm.engine.timing.costs)
        identity = kv_identity(llm.pair)
        engine.store = PrefixStore(directory, limit=1 << 40, identity=identity, factory=target.kv, say=lambda _: None)
        return engine, engine.store

    with tempfile.TemporaryDirectory(prefix="geminate-verify-") as directory:
        engine, store = engine_over(directory)
        engine.add(llm.request(list(request.prompt_ids), replace(params, max_tokens=1), speculation=0))
        engine.run()
        store.close()
        engine, store = engine_over(directory)
        sequence = engine.add(request)
        events = engine.run()
        store.close()
    return sequence, events


def _compare(prompt: int, start: int, plain: tuple[Setting, _Run], other: tuple[Setting, _Run]) -> Difference | None:
    a, b = plain[1], other[1]
    for i in range(max(len(a.ids), len(b.ids))):
        tokens = [run.ids[i] if i < len(run.ids) else None for run in (a, b)]
        if tokens[0] != tokens[1] or a.hashes[i] != b.hashes[i]:
            return Difference(
                prompt=prompt,
                position=start + i,
                plain=plain[0],
                other=other[0],
                plain_token=tokens[0],
                other_token=tokens[1],
                plain_top=a.tops[i] if i < len(a.tops) else [],
                other_top=b.tops[i] if i < len(b.tops) else [],
            )
    return None


def verify(
    models: Callable[[int, KVFormat], LLM],
    threads: Seq[int],
    prompts: Seq[str | Seq[int]],
    params: SamplingParams,
    *,
    kvs: Seq[KVFormat] = ("f16",),
    full: bool = False,
    on_run: Callable[[int, int], None] | None = None,
) -> Report:
    """Run every prompt under every setting and compare.

    Args:
        models: the LLM for a thread count and a KV format; called once for each pair.
        threads: thread counts to try. params: max_tokens and the seed; temperature is set per run.
        kvs: KV formats to try.
        on_run: called with (runs done, total runs).

    Returns:
        a report at the first difference, or when all is done.
    """
    llms = {(count, kv): models(count, kv) for count in dict.fromkeys(threads) for kv in dict.fromkeys(kvs)}
    some = next(iter(llms.values()))
    counts, formats = tuple(dict.fromkeys(threads)), tuple(dict.fromkeys(kvs))
    plan = settings(counts, drafter=some.pair.drafter is not None, full=full, kvs=formats)
    ids = [some.encode(p) for p in prompts]
    done = tokens = reused = 0
    digests = {kv: hashlib.blake2b(digest_size=16) for kv in formats}
    for number, prompt in enumerate(ids):
        plain: dict[tuple[float, KVFormat], tuple[Setting, _Run]] = {}
        for setting in plan:
            run = _run(llms[setting.threads, setting.kv], prompt, setting, params)
            done, tokens, reused = done + 1, tokens + len(run.ids), reused + run.reused
            if on_run is not None:
                on_run(done, len(plan) * len(ids))
            alike = (setting.temperature, setting.kv)
            if alike not in plain:
                plain[alike] = (setting, run)
                digests[setting.kv].update(b"".join(run.hashes))
                continue
            difference = _compare(number, len(prompt), plain[alike], (setting, run))
            if difference is not None:
                return Report(
                    identical=False, prompts=number + 1, tokens=tokens, runs=done, logits_hash="", difference=difference
                )
    hashes: dict[str, str] = {kv: digest.hexdigest() for kv, digest in digests.items()}
    return Report(
        identical=True,
        prompts=len(ids),
        tokens=tokens,
        runs=done,
        logits_hash=hashes[formats[0]],
        difference=None,
        kv_hashes=hashes,
        reused=reused,
    )
