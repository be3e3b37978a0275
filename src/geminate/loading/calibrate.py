"""Measures once what passes and draft steps cost on this machine, and keeps it beside the packed weights."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geminate import machine
from geminate.decoding.draft_rule import DraftRule
from geminate.kv.store import BLOCK, KVStore
from geminate.loading.load import Pair
from geminate.plan.batch import Batch, Rows
from geminate.plan.costs import AttentionCosts
from geminate.replacing import replacing
from geminate.speculation.costs import PROFILE_CONTEXT, PROFILE_ROWS, CostModel, CostProfile
from geminate.weights.cache import Message

BUDGET = 1.5  # seconds to spend, unless a few passes alone take longer
FEW = (1, 2, 3, 5, 9, 17)  # row counts timed where all of them would take too long
CONTEXT = PROFILE_CONTEXT
FAR = 4096  # positions behind which passes are timed again, or half of the context if that is shorter
FAR_ROWS = 5
FAR_SAMPLES = 5
FAR_BUDGET = 0.5  # seconds for them
DRAFT = 4
MOST_SAMPLES = 15
DISTURBED = 1.5  # times the least timing; a median beyond that was taken while something else ran


def cost_model(pair: Pair, profile: CostProfile | None) -> CostModel:
    """The costs of a pair's rounds, by the profile and the attention of both models."""
    drafter = None if pair.drafter is None else AttentionCosts(pair.drafter.plan)
    return CostModel(profile, target=AttentionCosts(pair.target.plan), drafter=drafter)


def cost_profile(
    pair: Pair, on_message: Message | None = None, on_pass: Callable[[], None] | None = None
) -> CostProfile | None:
    """The kept profile of this machine, pair and thread count; measured if there is none, and kept if all was quiet.

    Args:
        on_pass: see `measure`.

    Returns:
        None for the reference backend, which is not worth timing.
    """
    if pair.target.backend.name != "native":
        return None
    path, key = pair.target.store.costs, _key(pair)
    if (known := kept_profile(pair)) is not None:
        return known
    kept = _read(path)
    profile = measure(pair, on_pass=on_pass)
    if on_message is not None and profile.passes[0] > 0.01:
        on_message(
            f"measured what a pass costs here: {profile.passes[0] * 1e3:.0f} ms for one row, "
            f"{profile.passes[4] * 1e3:.0f} ms for five"
        )
    if profile.quiet:
        _write(path, {**kept, key: profile.as_dict()})
    return profile


def kept_profile(pair: Pair) -> CostProfile | None:
    """The kept profile of this machine, pair and thread count; None if there is none."""
    try:
        return CostProfile.from_dict(_read(pair.target.store.costs)[_key(pair)])
    except (KeyError, ValueError, TypeError):
        return None


def measure(pair: Pair, budget: float = BUDGET, on_pass: Callable[[], None] | None = None) -> CostProfile:
    """T(1..17), the draft step and attention: the least of interleaved timings within about ``budget`` seconds.

    Args:
        on_pass: called before every pass; what it raises ends the measuring.
    """
    target = pair.target
    cache = target.new_cache()
    vocab = target.config.vocab_size
    ids = (np.arange(CONTEXT, dtype=np.int64) * 7919 % vocab).astype(np.int32)

    def run(rows: int, logits: bool = True, cache: KVStore = cache) -> float:
        if on_pass is not None:
            on_pass()
        batch = Batch.of([Rows(cache=cache, ids=ids[:rows], wanted=rows if logits else 0)])
        began = time.perf_counter()
        target.forward(batch)
        return time.perf_counter() - began

    def draft(steps: int) -> float:
        assert pair.drafter is not None
        began = time.perf_counter()
        pair.drafter.draft(int(ids[0]), hidden, cache, steps, DraftRule())
        return time.perf_counter() - began

    for start in range(0, CONTEXT, PROFILE_ROWS):
        count = min(PROFILE_ROWS, CONTEXT - start)
        run(count, logits=False)
        cache.advance(count)
    until = time.perf_counter() + budget
    run(1)
    rows = tuple(range(1, PROFILE_ROWS + 1)) if 30 * run(1) < budget else FEW
    times: dict[int, list[float]] = {m: [] for m in rows}
    drafts: dict[int, list[float]] = {1: [], DRAFT: []}
    hidden = np.ones(target.config.hidden_size, dtype=np.float32)
    samples = 0
    while samples == 0 or (time.perf_counter() < until and samples < MOST_SAMPLES):
        samples += 1
        for m in rows:
            times[m].append(run(m))
        if pair.drafter is not None:
            draft(DRAFT)
            for steps, taken in drafts.items():
                run(DRAFT + 1)  # as in a series of drafts: the first after a pause finds its weights far from the core
                taken.append(draft(steps))
    short, long = (min(taken, default=0.0) for taken in drafts.values())
    step = max(0.0, long - short) / (DRAFT - 1)
    # Whatever else runs only adds to a timing.
    passes = np.interp(np.arange(1, PROFILE_ROWS + 1), rows, [min(times[m]) for m in rows])
    quiet = all(statistics.median(taken) < DISTURBED * min(taken) for taken in times.values())
    # More rows never cost less: a dip is noise, and would look like free drafts.
    grown = tuple(float(t) for t in np.maximum.accumulate(passes))
    byte, mac = _attention(pair, cache, run)
    call = max(0.0, short - step)
    return CostProfile(
        passes=grown, draft_step=step, draft_call=call, attention_byte=byte, attention_mac=mac, quiet=quiet
    )


def _attention(pair: Pair, near: KVStore, run: Callable[..., float]) -> tuple[float, float]:
    """Seconds of a byte of keys and values and of a multiply-accumulate of attention, from passes far into a context.

    Args:
        near: a cache of `CONTEXT` positions, whose keys and values fill the far one again and again.
        run: (rows, cache=...) -> seconds of a pass.
    """
    target = pair.target
    blocks = min(FAR, target.config.max_position_embeddings // 2) // BLOCK
    if blocks * BLOCK <= 2 * CONTEXT:
        return 0.0, 0.0
    far = target.new_cache()
    far.restore([near.export(0)] * blocks)
    run(1, cache=far)
    one: list[float] = []
    more: list[float] = []
    until = time.perf_counter() + FAR_BUDGET
    while not one or (len(one) < FAR_SAMPLES and time.perf_counter() < until):
        one.append(run(1, cache=far) - run(1))
        more.append(run(FAR_ROWS, cache=far) - run(FAR_ROWS))
    costs = AttentionCosts(target.plan)
    here, there = costs.at(CONTEXT), costs.at(far.length)
    macs, read = there.macs - here.macs, there.bytes - here.bytes
    if macs <= 0:
        return 0.0, 0.0
    first, all_rows = max(0.0, statistics.median(one)), max(0.0, statistics.median(more))
    mac = min(max(0.0, all_rows - first) / (FAR_ROWS - 1), first) / macs
    return (first - mac * macs) / read, mac


def _key(pair: Pair) -> str:
    backend = pair.target.backend
    drafter = "none" if pair.drafter is None else f"{pair.located.drafter} {pair.drafter.store.format}"
    kv = pair.target.kv_format
    return f"{machine.describe()}; {backend.isa}, {backend.threads} threads; KV {kv}; drafter {drafter}"


def _read(path: Path | None) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(path: Path | None, profiles: dict[str, Any]) -> None:
    """Keep them if possible; a full or read-only disk costs a new measurement next time, nothing else."""
    if path is None:
        return
    with contextlib.suppress(OSError), replacing(path, ".costs-") as file:
        file.write(json.dumps(profiles).encode())
