"""A discrete-event simulation: the engine itself, with its scheduler, pace, admission, KV budget and draft policy, on a
clock that only passes, drafts and the engine's own work advance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from geminate.engine.admission import check_place
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest, Speculation
from geminate.errors import ContextLengthError, QueueFullError
from geminate.kv.budget import KVBudget
from geminate.kv.store import KVFormat
from geminate.params import MAX_DRAFT, SamplingParams
from geminate.plan.config import TargetConfig
from geminate.speculation.costs import CostModel
from geminate.tools.capacity.pass_costs import PassCosts, PassTimes
from geminate.tools.capacity.stand_in import (
    Ending,
    SimulatedClock,
    StandInDrafter,
    StandInKVFactory,
    StandInSampler,
    StandInTarget,
    prompt_ids,
)
from geminate.tools.capacity.work import ModelWork
from geminate.tools.capacity.workload import Request

WARM_UP = 0.1  # of the requests, which begin on an empty machine and are not counted


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Limits of the simulated server; the defaults are those of ``geminate serve``.

    Attributes:
        kv_positions: the KV budget holds ``max_running`` sequences of so many positions. kv_bytes: or this.
    """

    max_running: int = 16
    max_waiting: int = 64
    prefill_chunk: int = 256
    kv_positions: int = 4096
    kv_bytes: int | None = None


@dataclass(slots=True)
class Served:
    """What one request saw, in seconds.

    Attributes:
        arrived: when it was sent. first, last: when its first and its last token came. tokens: of its completion.
    """

    arrived: float
    prompt: int
    tokens: int = 0
    first: float = -1.0
    last: float = -1.0

    @property
    def first_token_s(self) -> float:
        """Time to the first token."""
        return self.first - self.arrived

    @property
    def rate(self) -> float | None:
        """Tokens a second behind the first one; None of a completion of one token."""
        took = self.last - self.first
        return (self.tokens - 1) / took if self.tokens > 1 and took > 0 else None


@dataclass(kw_only=True)
class Run:
    """What a run showed.

    Attributes:
        served: requests that were answered, in the order they ended, those of the warm-up included.
        counted: those that statistics count: all but the warm-up of an open loop.
        refused: requests that found no place (429). too_long: requests that the KV budget or context cannot hold.
        seconds: from the first arrival to the last token. busy: seconds in which the engine stepped.
        reused: prompt tokens that came from the prefix cache.
        most_running: sequences that ran at once, at most. kv_bytes: KV memory that they had reserved then.
    """

    served: list[Served] = field(default_factory=list)
    counted: list[Served] = field(default_factory=list)
    refused: int = 0
    too_long: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    reused: int = 0
    most_running: int = 0
    kv_bytes: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Of the requests that were answered."""
        return sum(one.prompt for one in self.served)

    @property
    def completion_tokens(self) -> int:
        """Of the requests that were answered."""
        return sum(one.tokens for one in self.served)

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens of all requests together over the whole run."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    @property
    def utilisation(self) -> float:
        """Share of the time in which the engine stepped."""
        return min(1.0, self.busy / self.seconds) if self.seconds else 0.0

    @property
    def acceptance_length(self) -> float:
        """Tokens of a round."""
        return 1.0 + self.accepted / self.rounds if self.rounds else 1.0

    def first_token(self, share: float) -> float:
        """The time to the first token that ``share`` of the counted requests did not exceed."""
        return quantile([one.first_token_s for one in self.counted], share)

    def stream_rate(self, share: float) -> float:
        """The tokens a second that ``share`` of the counted streams fell short of; 0 if no completion had two."""
        return quantile([one.rate for one in self.counted if one.rate is not None], share)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What is simulated: a model on a machine, behind a server's limits.

    Attributes:
        survival: chance that the first i draft tokens are all right. speculation: as a request has it.
    """

    config: TargetConfig
    work: ModelWork
    costs: PassCosts
    kv: KVFormat = "f16"
    speculation: Speculation = "auto"
    survival: tuple[float, ...] = ()
    limits: ServerLimits = ServerLimits()

    def kv_budget(self, factory: StandInKVFactory) -> int:
        """Bytes of the KV budget."""
        if self.limits.kv_bytes is not None:
            return self.limits.kv_bytes
        positions = min(self.limits.kv_positions, self.config.max_position_embeddings)
        return self.limits.max_running * factory.nbytes(positions)

    def open_loop(self, requests: Sequence[Request], max_tokens: int) -> Run:
        """Requests that come when they come, whatever the machine does."""
        return _Simulation(self, max_tokens).open_loop(requests)

    def closed_loop(
        self, requests: Sequence[Request], max_tokens: int, clients: int, before: Sequence[Request] = ()
    ) -> Run:
        """So many clients, each of whom sends its next request when its last one is answered.

        Args:
            before: requests that are answered one by one before the run begins, such as one that fills the prefix
                cache; they count nowhere.
        """
        return _Simulation(self, max_tokens).closed_loop(requests, clients, before)


def conditional(survival: Sequence[float]) -> list[float]:
    """Chance of draft token i if those before it were right."""
    return [s / before if before else 0.0 for before, s in zip([1.0, *survival], survival, strict=False)]


class _Simulation:
    """One run: an engine of its own on a clock of its own."""

    def __init__(self, what: Simulated, max_tokens: int) -> None:
        self.what, self.max_tokens = what, max_tokens
        self.clock = SimulatedClock()
        self.run = Run()
        self._endings: dict[int, Ending] = {}
        self._open: dict[str, Served] = {}
        costs, work, limits = what.costs, what.work, what.limits
        max_rows = limits.prefill_chunk + MAX_DRAFT
        draft = None if work.draft is None else work.draft.attention
        times = PassTimes(
            costs, decoding=work.whole.attention, prompt=work.body.attention, draft=draft, max_rows=max_rows
        )
        sampler = StandInSampler(self.clock, self._endings, costs.step, costs.sequence)
        self.target = StandInTarget(
            what.config,
            times,
            self.clock,
            sampler,
            max_rows=max_rows,
            kv=what.kv,
        )
        self.memory = KVBudget(self.target.kv, limit=what.kv_budget(self.target.kv))
        drafter = None
        if work.draft is not None and what.survival:
            drafter = StandInDrafter(conditional(what.survival), times, self.clock, self._endings)
        self.engine = Engine(
            self.target.as_target(),
            drafter,
            prefill_chunk=limits.prefill_chunk,
            max_running=limits.max_running,
            memory=self.memory,
            costs=CostModel(costs.profile(), target=work.whole.attention, drafter=draft),
            copies=False,  # tokens without meaning have nothing to copy
            clock=self.clock,
        )

    def open_loop(self, requests: Sequence[Request]) -> Run:
        """See `Simulated.open_loop`."""
        coming = list(requests)[::-1]
        counted = set(range(int(WARM_UP * len(coming)), len(coming)))
        began = coming[-1].arrival if coming else 0.0
        self.clock.now = began
        while coming or self._open:
            if not self._open and coming[-1].arrival > self.clock.now:
                self.clock.now = coming[-1].arrival
            while coming and coming[-1].arrival <= self.clock.now:
                request = coming.pop()
                self._submit(request, request.arrival, request.index in counted)
            self._step()
        return self._ended(began)

    def closed_loop(self, requests: Sequence[Request], clients: int, before: Sequence[Request] = ()) -> Run:
        """See `Simulated.closed_loop`."""
        for request in before:
            self._clients([request], 1)
        self.run, self.target.passes, self.memory.hits = Run(), 0, 0
        began = self.clock.now
        self._clients(requests, clients)
        return self._ended(began)

    def _clients(self, requests: Sequence[Request], clients: int) -> None:
        coming = list(requests)[::-1]
        while coming or self._open:
            while coming and len(self._open) < clients:
                self._submit(coming.pop(), self.clock.now, True)
            self._step()

    def _submit(self, request: Request, arrival: float, counted: bool) -> None:
        limits, name = self.what.limits, str(request.index)
        self._endings[request.index] = Ending(request.prompt + request.completion - 1)
        vocab = self.target.config.vocab_size
        engine_request = EngineRequest(
            request_id=name,
            prompt_ids=prompt_ids(request.index, request.prompt, request.prefix, request.prefix_tokens, vocab),
            sampling=replace(
                SamplingParams(max_tokens=self.max_tokens, temperature=0.0).resolved(), seed=request.index
            ),
            speculation=self.what.speculation,
        )
        try:
            check_place("", [""] * len(self._open), limits.max_running + limits.max_waiting, limits.max_running)
            self.engine.add(engine_request)
        except QueueFullError:
            self.run.refused += 1
            return
        except ContextLengthError:
            self.run.too_long += 1
            return
        self.clock.advance(self.what.costs.request)
        self._open[name] = one = Served(arrived=arrival, prompt=request.prompt)
        if counted:
            self.run.counted.append(one)

    def _step(self) -> None:
        if not self._open:
            return
        began = self.clock.now
        events = self.engine.step()
        self.run.busy += self.clock.now - began
        running = len(self.engine.running)
        if running >= self.run.most_running:
            self.run.most_running, self.run.kv_bytes = running, max(self.run.kv_bytes, self.memory.used)
        for event in events:
            if event.error is not None:
                raise event.error
            if not event.token_ids:
                continue
            one = self._open[event.request_id]
            if one.tokens == 0:
                one.first = self.clock.now
            else:
                self.run.rounds += 1
                self.run.drafted += event.drafted
                self.run.accepted += event.accepted
            one.tokens += len(event.token_ids)
            if event.finish_reason is not None:
                one.last = self.clock.now
                del self._open[event.request_id]
                self.run.served.append(one)

    def _ended(self, began: float) -> Run:
        run = self.run
        run.seconds = self.clock.now - began
        run.passes, run.reused = self.target.passes, self.memory.hits
        return run
