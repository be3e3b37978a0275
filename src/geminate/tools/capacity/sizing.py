"""How a model on a machine carries a workload: what fits, how fast it is, how many machines it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.models import Candidate
from geminate.tools.capacity.money import DayTokens, FleetCost, Prices, fleet_cost, with_spares
from geminate.tools.capacity.pass_costs import PassCosts
from geminate.tools.capacity.simulate import Run, ServerLimits, Simulated
from geminate.tools.capacity.stand_in import StandInKVFactory
from geminate.tools.capacity.workload import Workload, at_rate

PROCESS_BYTES = 300 << 20  # interpreter, libraries, scratch, logits
USABLE = 0.9  # of a machine's memory; the system has the rest
STREAMS = (1, 2, 4, 8, 16)
ROUNDS = 4  # requests of each client where clients are held constant
BISECTIONS = 5
TOO_LONG = 0.05  # of the requests may be longer than context or KV budget: they are refused, and counted
NEAR_PEAK = 0.9  # of the rate at which the machine is never idle


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What users are promised.

    Attributes:
        first_token_p95_s: time to the first token that 95 % of all requests do not exceed, in the busiest hour.
        tokens_per_s: of a stream; 95 % of all streams are at least as fast. The default is faster than people read.
        availability: share of the time in which enough machines are up; None: no spare machines.
        machine_availability: of one machine; assumed.
    """

    first_token_p95_s: float = 5.0
    tokens_per_s: float = 6.0
    availability: float | None = None
    machine_availability: float = 0.995


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is simulated: requests of a run whose figures are shown, and of one that only searches."""

    shown: int = 400
    searched: int = 160
    sensitivity: bool = True


QUICK = Effort(shown=100, searched=50, sensitivity=False)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes: of weights, of the KV budget, of the process; and what the machine has to give."""

    weights: int
    kv: int
    process: int
    usable: int

    @property
    def total(self) -> int:
        """What is needed."""
        return self.weights + self.kv + self.process


@dataclass(frozen=True, kw_only=True)
class Change:
    """A run of the busiest hour with one thing changed, on the same machines."""

    what: str
    first_token_p95_s: float
    tokens_per_s: float
    utilisation: float
    refused: int


@dataclass(kw_only=True)
class Sizing:
    """What came of one model on one machine, with or without speculation.

    Attributes:
        broken: which objective cannot be met by any number of such machines, in a sentence; "" if all can.
        constraint: its name: memory, context, first token, stream rate. excess: how many times it is missed.
        idle: one client on an otherwise idle machine. peak: the busiest hour on one of the machines.
        capacity_rate: requests a second that one machine takes within the objectives; saturation_rate: at most.
        machines: needed for the load; with_spares: for the availability too.
        utilisation: over the day, of each machine.
        rate_wanted: tokens a second of a stream, the objective.
        streams: by constant clients, tokens a second that 95 % of the streams reach, and those of all together.
    """

    candidate: Candidate
    machine: Machine
    costs: PassCosts
    speculation: str
    memory: Memory
    rate_wanted: float
    broken: str = ""
    constraint: str = ""
    excess: float = 0.0
    idle: Run | None = None
    peak: Run | None = None
    capacity_rate: float = 0.0
    saturation_rate: float = 0.0
    machines: int = 0
    with_spares: int = 0
    utilisation: float = 0.0
    streams: list[tuple[int, float, float]] = field(default_factory=list)
    load_curve: list[tuple[float, float, float]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    cost: FleetCost | None = None

    @property
    def fits(self) -> bool:
        """Whether the objectives can be met with enough of such machines."""
        return not self.broken

    @property
    def streams_at_once(self) -> int:
        """Streams that one machine serves at the objective's rate."""
        return max((count for count, rate, _ in self.streams if rate >= self.rate_wanted), default=0)


class Sizer:
    """Sizes models on machines for one workload.

    Args:
        on_run: called before every run with what it is; what it raises ends the work.
        seed: of arrivals and lengths.
    """

    def __init__(
        self,
        workload: Workload,
        objectives: Objectives,
        prices: Prices,
        *,
        limits: ServerLimits | None = None,
        effort: Effort | None = None,
        seed: int = 0,
        on_run: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.workload, self.objectives, self.prices = workload, objectives, prices
        self.limits, self.effort, self.seed = limits or ServerLimits(), effort or Effort(), seed
        self._on_run = on_run

    def size(self, candidate: Candidate, machine: Machine, costs: PassCosts, speculation: str) -> Sizing:
        """One row: ``speculation`` is ``auto`` or ``off``."""
        limits, memory = self._memory(candidate, machine)
        found = Sizing(
            candidate=candidate, machine=machine, costs=costs, speculation=speculation, memory=memory,
            rate_wanted=self.objectives.tokens_per_s,
        )  # fmt: skip
        if memory.total > memory.usable:
            need, has = memory.total / 1e9, memory.usable / 1e9
            found.broken = f"memory: {need:.1f} GB are needed and {has:.1f} of {machine.memory_gb:g} GB are usable"
            found.constraint, found.excess = "memory", need / has
            return found
        what = Simulated(
            config=candidate.config,
            work=candidate.work,
            costs=costs,
            kv=candidate.kv,
            speculation="auto" if speculation == "auto" else 0,
            survival=candidate.survival,
            limits=limits,
        )
        self._idle(found, what)
        if found.broken:
            return found
        self._capacity(found, what)
        self._fleet(found, what)
        if self.effort.sensitivity:
            self._sensitivity(found, what)
        return found

    def _memory(self, candidate: Candidate, machine: Machine) -> tuple[ServerLimits, Memory]:
        """The server's limits on this machine: its default KV budget, or what the memory leaves."""
        usable = int(USABLE * machine.memory_gb * 1e9)
        factory = StandInKVFactory(candidate.config, max_rows=self.limits.prefill_chunk + 16, kv=candidate.kv)
        positions = min(self.limits.kv_positions, candidate.config.max_position_embeddings)
        default = self.limits.kv_bytes or self.limits.max_running * factory.nbytes(positions)
        weights = candidate.work.weight_bytes
        least = factory.nbytes(min(positions, 512))
        kv = max(least, min(default, usable - weights - PROCESS_BYTES))
        limits = replace(self.limits, kv_bytes=kv)
        return limits, Memory(weights=weights, kv=kv, process=PROCESS_BYTES, usable=usable)

    def _idle(self, found: Sizing, what: Simulated) -> None:
        """What the machine does for one client: no number of machines does better."""
        self._on_run("one client")
        count = max(20, self.effort.searched // 4)
        run = what.closed_loop(self.workload.requests(count, self.seed), self.workload.limit(), 1)
        found.idle, wanted = run, self.objectives
        if run.too_long > TOO_LONG * count:
            found.constraint = "context"
            found.excess = run.too_long / count
            found.broken = (
                f"context: {run.too_long} of {count} requests fit neither the model's context of "
                f"{what.config.max_position_embeddings:,} tokens nor a KV budget of {found.memory.kv / 1e9:.2f} GB"
            )
            return
        first, rate = run.first_token(0.95), run.stream_rate(0.05)
        if first > wanted.first_token_p95_s:
            found.constraint, found.excess = "first token", first / wanted.first_token_p95_s
            found.broken = (
                f"time to first token: {first:.2f} s (p95) on an idle machine, {wanted.first_token_p95_s:g} s are "
                f"wanted; the limit is {self._limit(found, prompt=True)}"
            )
        elif 0 < rate < wanted.tokens_per_s:
            found.constraint, found.excess = "stream rate", wanted.tokens_per_s / rate
            found.broken = (
                f"stream rate: {rate:.1f} tokens a second on an idle machine, {wanted.tokens_per_s:g} are wanted; the "
                f"limit is {self._limit(found, prompt=False)}"
            )

    @staticmethod
    def _limit(found: Sizing, *, prompt: bool) -> str:
        """What a faster machine would need more of."""
        work, machine = found.candidate.work, found.machine
        part, rows = (work.body, 256) if prompt else (work.whole, 1)
        by_bytes = part.read(rows) / (machine.bandwidth_gbs * 1e9)
        by_macs = rows * part.macs / (machine.int8_gmacs * 1e9)
        return "the memory's bandwidth" if by_bytes > by_macs else "the int8 rate of its cores"

    def _meets(self, run: Run) -> bool:
        wanted = self.objectives
        rate = run.stream_rate(0.05)
        fast = rate >= wanted.tokens_per_s or not rate
        return not run.refused and run.first_token(0.95) <= wanted.first_token_p95_s and fast

    def _open(self, what: Simulated, rate: float, count: int, workload: Workload | None = None) -> Run:
        workload = workload or self.workload
        return what.open_loop(at_rate(workload.requests(count, self.seed), rate), workload.limit())

    def _capacity(self, found: Sizing, what: Simulated) -> None:
        """Rates by saturation and bisection, and streams by constant clients."""
        most = what.limits.max_running
        for clients in (count for count in STREAMS if count <= most):
            self._on_run(f"{clients} constant client{'s' * (clients > 1)}")
            requests = self.workload.requests(ROUNDS * max(clients, 4), self.seed)
            run = what.closed_loop(requests, self.workload.limit(), clients)
            found.streams.append((clients, run.stream_rate(0.05), run.tokens_per_s))
            found.saturation_rate = max(found.saturation_rate, len(run.served) / run.seconds)
        low, high = 0.0, found.saturation_rate
        rate = NEAR_PEAK * high
        for step in range(BISECTIONS):
            self._on_run(f"capacity, {step + 1} of {BISECTIONS}")
            run = self._open(what, rate, self.effort.searched)
            found.load_curve.append((rate, run.first_token(0.95), run.stream_rate(0.05)))
            if self._meets(run):
                low = rate
            else:
                high = rate
            rate = (low + high) / 2
        found.load_curve.sort()
        found.capacity_rate = low

    def _fleet(self, found: Sizing, what: Simulated) -> None:
        """Machines for the busiest hour, their day, and its cost."""
        peak = self.workload.peak_rate
        # Far below the lowest rate that was tried one machine is as good as idle, which meets the objectives.
        capacity = found.capacity_rate or found.saturation_rate / 2 ** (BISECTIONS + 1)
        machines = max(1, math.ceil(peak / capacity))
        for _ in range(BISECTIONS):
            self._on_run(f"busiest hour on {machines:,} machine{'s' * (machines > 1)}")
            found.peak = self._open(what, peak / machines, self.effort.shown)
            if self._meets(found.peak):
                break
            machines = max(machines + 1, math.ceil(1.1 * machines))
        else:
            found.broken = "load: the objectives are met by an idle machine alone, not under any load worth a machine"
            found.constraint, found.excess = "load", 1.0
        assert found.peak is not None
        found.machines = found.with_spares = machines
        wanted = self.objectives
        if wanted.availability is not None:
            count = with_spares(machines, wanted.machine_availability, wanted.availability)
            if count is None:
                found.constraint, found.excess = "availability", 1.0
                found.broken = f"availability: {wanted.availability:g} cannot be reached with such machines"
                return
            found.with_spares = count
        self._on_run("an average hour")
        mean = self._open(what, self.workload.mean_rate / machines, self.effort.searched)
        hours = [self._busy(rate, mean, found.peak) for rate in self.workload.hourly()]
        # Spare machines share the load while all are up.
        found.utilisation = sum(hours) / len(hours) * machines / found.with_spares
        tokens = day_tokens(self.workload, self.effort.shown, self.seed)
        found.cost = fleet_cost(found.machine, found.with_spares, found.utilisation, tokens, self.prices)

    def _busy(self, rate: float, mean: Run, peak: Run) -> float:
        """Utilisation at an hour's rate, on straight lines through an idle, an average and the busiest hour."""
        average, most = self.workload.mean_rate, self.workload.peak_rate
        if rate <= average or most <= average:
            return mean.utilisation * rate / average if average else 0.0
        return mean.utilisation + (peak.utilisation - mean.utilisation) * (rate - average) / (most - average)

    def _sensitivity(self, found: Sizing, what: Simulated) -> None:
        """The busiest hour with other acceptance, prompts and load."""
        rate, count = self.workload.peak_rate / found.machines, self.effort.searched
        longer = {factor: self.workload.with_prompts(factor) for factor in (0.5, 2.0)}
        runs: list[tuple[str, Simulated, float, Workload]] = [
            ("load x 0.5", what, rate * 0.5, self.workload),
            ("load x 1.5", what, rate * 1.5, self.workload),
            ("prompts x 0.5", what, rate, longer[0.5]),
            ("prompts x 2", what, rate, longer[2.0]),
        ]
        if what.survival and what.speculation == "auto":
            for label, factor in (("acceptance x 0.5", 0.5), ("acceptance of every draft", 0.0)):
                survival = tuple(s * factor for s in what.survival) if factor else (1.0,) * len(what.survival)
                runs.append((label, replace(what, survival=survival), rate, self.workload))
        for label, simulated, at, workload in runs:
            self._on_run(label)
            run = self._open(simulated, at, count, workload)
            found.changes.append(
                Change(
                    what=label,
                    first_token_p95_s=run.first_token(0.95),
                    tokens_per_s=run.stream_rate(0.05),
                    utilisation=run.utilisation,
                    refused=run.refused,
                )
            )


def day_tokens(workload: Workload, count: int, seed: int) -> DayTokens:
    """Tokens of a day, by the mean lengths of ``count`` requests."""
    requests = workload.requests(count, seed)
    per_day = workload.requests_per_day / len(requests)
    return DayTokens(
        requests=workload.requests_per_day,
        prompt=per_day * sum(request.prompt for request in requests),
        completion=per_day * sum(request.completion for request in requests),
    )
