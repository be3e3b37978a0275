"""Pass costs of this machine: a short measurement of a real pair or of one with random weights, kept for the next time.

Passes, attention and draft steps are timed one by one, interleaved, and medians are taken: what a server sees, not the
best it could see. The engine's own time is what real runs of the engine take beside passes and drafts (`overheads`).
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geminate import __version__, machine
from geminate.backends.select import native_backend
from geminate.decoding.draft_rule import DraftRule
from geminate.kv.store import BLOCK, KVStore
from geminate.params import MAX_DRAFT
from geminate.plan.batch import Batch, Rows
from geminate.plan.costs import AttentionCosts
from geminate.replacing import replacing
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.speculation.costs import PROFILE_CONTEXT
from geminate.system.memory import installed_bytes
from geminate.tools.bench.ceilings import Ceilings
from geminate.tools.capacity.machines import HERE, KERNELS, Machine
from geminate.tools.capacity.overheads import with_overheads
from geminate.tools.capacity.pass_costs import Knots, PassCosts
from geminate.tools.capacity.work import plan_work
from geminate.weights.cache import cache_directory

WHOLE_ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 17, 32, 64)
BODY_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256)
FAR = 4096
FAR_ROWS = 5
PROMPT_ROWS = 64
DRAFT = 4
SERIES = 6
SMALL_S = 0.01  # a pass, from which a model's weights hardly stay in the cache
ROUNDS = 3
LEAST_S, MOST_S = 1.5, 40.0  # of measuring passes: fast models get more rounds
PROBES = 5
BUSY = 0.6  # processes that want to run for each processor, in the last minute, from which rates are not kept
DISTURBED = 1.35  # times the least timing; a median beyond that was taken while something else ran
OnPart = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Pass costs, and whether nothing else seems to have run while they were measured."""

    costs: PassCosts
    quiet: bool


def this_machine(threads: int | None = None) -> Machine:
    """This machine by read and multiply probes of about two seconds.

    Raises:
        BackendError: the native kernels are not built.
    """
    return probe_machine(threads)[0]


def probe_machine(threads: int | None = None) -> tuple[Machine, bool]:
    """`this_machine`, and whether nothing else seems to have run meanwhile.

    Raises:
        BackendError: the native kernels are not built.
    """
    backend = native_backend(threads)
    ceilings = Ceilings(backend)
    reads = [ceilings.bandwidth() for _ in range(PROBES)]
    peaks = [ceilings.int8_peak() for _ in range(PROBES)]
    bandwidth, peak = statistics.median(reads), statistics.median(peaks)
    steady = bandwidth * DISTURBED > max(reads) and peak * DISTURBED > max(peaks)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    free = machine.available_bytes()
    memory = free if free is not None else installed_bytes()
    kernels = backend.isa if backend.isa in KERNELS else "portable"
    found = Machine(
        key=HERE,
        name=machine.describe(),
        cores=backend.threads,
        int8_gmacs=peak / 1e9,
        bandwidth_gbs=bandwidth / 1e9,
        memory_gb=memory / 1e9,
        kernels=kernels,
        source="measured",
    )
    return found, steady and load < BUSY * (os.cpu_count() or 1)


def measure_costs(
    target: TargetModel, drafter: DrafterModel | None, *, on_part: OnPart = lambda what: None
) -> Measured:
    """Measure a compiled pair: some seconds for small models, up to a minute for large ones.

    Args:
        on_part: called before every part with what it is; what it raises ends the measuring.
    """
    meter = _Meter(target, drafter)
    on_part("passes")
    whole, body = meter.passes(on_part)
    on_part("attention")
    byte, mac, prompt = meter.attention()
    on_part("drafts")
    call, step = meter.drafts()
    costs = PassCosts(
        body=body,
        whole=whole,
        attention_byte=byte,
        attention_mac=mac,
        prompt_mac=prompt,
        draft_call=call,
        draft_step=step,
        step=0.0,
        sequence=0.0,
        decision=0.0,
        request=0.0,
        prompt_token=0.0,
        copy_byte=0.0,
        kind="measured",
        basis=f"passes, drafts and engine measured here ({target.backend.isa}, {target.backend.threads} threads)",
    )
    on_part("the engine's own time")
    return Measured(costs=with_overheads(costs, target, drafter), quiet=meter.quiet)


class _Meter:
    """Times a pair part by part."""

    def __init__(self, target: TargetModel, drafter: DrafterModel | None) -> None:
        self.target, self.drafter = target, drafter
        vocab = target.config.vocab_size
        self.ids = (np.arange(272, dtype=np.int64) * 7919 % vocab).astype(np.int32)
        self.quiet = True
        self.hidden = np.ones(target.config.hidden_size, dtype=np.float32)
        self.near = target.new_cache()
        for start in range(0, PROFILE_CONTEXT, MAX_DRAFT):
            self.run(MAX_DRAFT, 0, self.near)
            self.near.advance(min(MAX_DRAFT, PROFILE_CONTEXT - start))

    def run(self, rows: int, wanted: int, cache: KVStore | None = None) -> float:
        """Seconds of a pass, of a small model as of one in a series: its weights are still in the cache."""
        batch = Batch.of([Rows(cache=cache or self.near, ids=self.ids[:rows], wanted=wanted)])
        taken: list[float] = []
        while not taken or (len(taken) < SERIES and taken[0] < SMALL_S):
            began = time.perf_counter()
            self.target.forward(batch)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[len(taken) // 3 :])

    def passes(self, on_part: OnPart) -> tuple[Knots, Knots]:
        """Passes whose rows all want logits, and whose rows want none."""
        most = self.target.max_rows - MAX_DRAFT
        room = self.target.config.max_position_embeddings - PROFILE_CONTEXT
        whole_rows = [rows for rows in WHOLE_ROWS if rows <= min(most, room)]
        body_rows = [rows for rows in BODY_ROWS if rows <= min(most, room)]
        kinds = [(rows, rows) for rows in whole_rows] + [(rows, 0) for rows in body_rows]
        times: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
        self.run(1, 1)
        began = time.perf_counter()
        done = 0
        while done < ROUNDS or time.perf_counter() - began < LEAST_S:
            for kind in kinds:
                times[kind].append(self.run(*kind))
            done += 1
            on_part(f"passes, round {done}")
            if time.perf_counter() - began > MOST_S:
                break
        middle = {kind: statistics.median(taken) for kind, taken in times.items()}
        disturbed = [kind for kind, taken in times.items() if middle[kind] > DISTURBED * min(taken)]
        self.quiet = 4 * len(disturbed) < len(times)
        return _rising([(m, middle[m, m]) for m in whole_rows]), _rising([(m, middle[m, 0]) for m in body_rows])

    def attention(self) -> tuple[float, float, float]:
        """Seconds of a byte of keys and values, and of a multiply-accumulate in decoding and in prompts."""
        target = self.target
        blocks = min(FAR, target.config.max_position_embeddings // 2) // BLOCK
        if blocks * BLOCK <= 2 * PROFILE_CONTEXT:
            return 0.0, 0.0, 0.0
        far = target.new_cache()
        far.restore([self.near.export(0)] * blocks)
        self.run(1, 1, far)
        differences: dict[tuple[int, int], list[float]] = {(1, 1): [], (FAR_ROWS, FAR_ROWS): [], (PROMPT_ROWS, 0): []}
        for _ in range(PROBES):
            for kind, taken in differences.items():
                taken.append(self.run(*kind, far) - self.run(*kind))
        one, more, prompt = (max(0.0, statistics.median(taken)) for taken in differences.values())
        work = plan_work(target.plan, None, 0)
        macs, read = _grown(work.whole.attention, far.length)
        if macs <= 0:
            return 0.0, 0.0, 0.0
        mac = min(max(0.0, more - one) / (FAR_ROWS - 1), one) / macs
        byte = (one - mac * macs) / read
        prompt_macs, prompt_read = _grown(work.body.attention, far.length)
        rest = max(0.0, prompt - byte * prompt_read)
        return byte, mac, rest / (PROMPT_ROWS * prompt_macs) if prompt_macs else 0.0

    def drafts(self) -> tuple[float, float]:
        """Seconds of a draft beside its steps, and of a step."""
        if self.drafter is None:
            return 0.0, 0.0
        taken: dict[int, list[float]] = {1: [], DRAFT: []}
        self._draft(DRAFT)
        for _ in range(3 * PROBES):
            for steps, times in taken.items():
                self.run(DRAFT + 1, DRAFT + 1)  # as in a round: the weights have left the near caches
                times.append(self._draft(steps))
        one, several = (statistics.median(times) for times in taken.values())
        step = max(0.0, several - one) / (DRAFT - 1)
        return max(0.0, one - step), step

    def _draft(self, steps: int) -> float:
        assert self.drafter is not None
        began = time.perf_counter()
        self.drafter.draft(int(self.ids[0]), self.hidden, self.near, steps, DraftRule())
        return time.perf_counter() - began


def _rising(knots: list[tuple[int, float]]) -> Knots:
    """More rows never cost less: a dip is noise."""
    made: list[tuple[int, float]] = []
    for rows, seconds in knots:
        made.append((rows, max([seconds, *(before for _, before in made[-1:])])))
    return tuple(made)


def _grown(costs: AttentionCosts, length: int) -> tuple[int, int]:
    near, there = costs.at(PROFILE_CONTEXT), costs.at(length)
    return there.macs - near.macs, there.bytes - near.bytes


def kept_costs(key: str, measure: Callable[[], Measured], on_message: OnPart, folder: Path | None = None) -> PassCosts:
    """The costs kept under ``key``, or measured now, and kept if nothing disturbed that.

    Another version, machine or Python measures anew.
    """
    path = (folder or cache_directory()) / "plan-costs.json"
    whole = f"{machine.describe()}; geminate {__version__}; {key}"
    kept = _read(path)
    try:
        costs = PassCosts.from_dict(kept[whole])
        return replace(costs, basis=f"{costs.basis}, kept in {path}")
    except (KeyError, ValueError, TypeError):
        pass
    measured = measure()
    costs = measured.costs
    if not measured.quiet:
        on_message("something else runs on this machine: what passes cost was measured, but may be too much; not kept")
        return costs
    with suppress(OSError), replacing(path, ".plan-costs-") as file:
        file.write(json.dumps({**kept, whole: costs.as_dict()}).encode())
    return costs


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}
