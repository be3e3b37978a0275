"""What the engine adds to passes and drafts, from short runs of a real engine: whatever a run takes beyond them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geminate.arrays import F32
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest, Speculation
from geminate.kv.budget import KVBudget
from geminate.kv.store import BLOCK
from geminate.params import SamplingParams
from geminate.plan.batch import Rows
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.mtp import MtpDrafter
from geminate.tools.capacity.pass_costs import PassCosts, PassTimes
from geminate.tools.capacity.work import plan_work

SHORT, LONG = 32, 224  # tokens of prompts, each read in one pass
PREFIX = 1024  # tokens that come from the prefix cache, or a quarter of the context
SEVERAL = 8
SPENT_S = 0.5  # of passes in a run
LEAST_TOKENS, MOST_TOKENS = 6, 160
RUNS = 5
FIRST_ID = 3


class _Watched:
    """A target and its drafter that add up what passes and drafts take."""

    def __init__(self, target: TargetModel, drafter: DrafterModel | None) -> None:
        self._target, self._extend = target, target.extend
        self._drafter = None if drafter is None else MtpDrafter(drafter)
        self.seconds = 0.0
        self.drafts = 0

    @property
    def drafter(self) -> _Watched | None:
        """What the engine drafts with."""
        return None if self._drafter is None else self

    def extend(self, parts: Sequence[Rows]) -> tuple[F32, F32]:
        """See `TargetModel.extend`."""
        began = time.perf_counter()
        out = self._extend(parts)
        self.seconds += time.perf_counter() - began
        return out

    def draft(self, context: DraftContext, k: int) -> Draft:
        """See `Drafter`."""
        assert self._drafter is not None
        began = time.perf_counter()
        made = self._drafter.draft(context, k)
        self.seconds += time.perf_counter() - began
        self.drafts += 1
        return made

    def __getattr__(self, name: str) -> object:
        return getattr(self._target, name)


@dataclass(frozen=True, kw_only=True)
class _Decoding:
    """Of a run behind its prompts: seconds of a step, those outside passes and drafts, steps, drafts."""

    step: float
    outside: float
    steps: int
    drafts: int


def with_overheads(costs: PassCosts, target: TargetModel, drafter: DrafterModel | None) -> PassCosts:
    """The costs with the engine's own time in them, and what its prefix cache takes."""
    return _Overheads(costs, target, drafter).found()


class _Overheads:
    """Runs the engine and subtracts what passes are known to take."""

    def __init__(self, costs: PassCosts, target: TargetModel, drafter: DrafterModel | None) -> None:
        self.costs, self.target, self.drafter = costs, target, drafter
        work = plan_work(target.plan, None, 0)
        self.times = PassTimes(
            costs, decoding=work.whole.attention, prompt=work.body.attention, draft=None, max_rows=target.max_rows
        )
        self.work = work
        self.tokens = int(min(max(SPENT_S / costs.whole[0][1], LEAST_TOKENS), MOST_TOKENS))
        self._made = 0

    def found(self) -> PassCosts:
        """See `with_overheads`."""
        self._decode(1, 0)
        one, several = self._decode(1, 0), self._decode(SEVERAL, 0)
        grown = self.times.dense(SEVERAL, SEVERAL) - self.times.dense(1, 1)
        sequence = max(0.0, several.step - one.step - grown) / (SEVERAL - 1)
        step = max(0.0, one.step - self.times.dense(1, 1) - sequence)
        auto = self._decode(1, "auto")
        decision = max(0.0, auto.outside - one.outside) * auto.steps / auto.drafts if auto.drafts else 0.0
        known = self.times.dense(1, 1) - self.times.dense(1, 0) + step + sequence
        short = self._prompt(SHORT) - self.times.dense(SHORT, 0) - known
        long = self._prompt(LONG) - self.times.dense(LONG, 0) - known
        token = max(0.0, long - short) / (LONG - SHORT)
        request = max(0.0, short - SHORT * token)
        made = replace(self.costs, step=step, sequence=sequence, decision=decision, request=request, prompt_token=token)
        return replace(made, copy_byte=self._copying(made, known))

    def _engine(self, running: int) -> tuple[Engine, _Watched]:
        watched = _Watched(self.target, self.drafter)
        longest = min(2 * PREFIX, self.target.config.max_position_embeddings)
        limit = (running + 2) * self.target.kv.nbytes(longest) + 64 * RUNS * self.target.kv.block_bytes
        costs = CostModel(self.costs.profile(), target=self.work.whole.attention)
        engine = Engine(
            self.target,
            watched.drafter,
            max_running=running,
            memory=KVBudget(self.target.kv, limit=limit),
            costs=costs,
            copies=False,
        )
        engine.target = watched  # type: ignore[assignment]
        return engine, watched

    def _ids(self, count: int) -> list[int]:
        """A prompt that no other one begins like."""
        self._made += 1
        room = self.target.config.vocab_size - FIRST_ID
        return [FIRST_ID + (7919 * self._made + at * at) % room for at in range(count)]

    def _request(self, ids: list[int], tokens: int, speculation: Speculation) -> EngineRequest:
        sampling = replace(SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True).resolved(), seed=1)
        return EngineRequest(request_id=str(self._made), prompt_ids=ids, sampling=sampling, speculation=speculation)

    def _decode(self, sequences: int, speculation: Speculation) -> _Decoding:
        """The median of several runs of a small model, one run of a large one."""
        runs = RUNS if self.tokens == MOST_TOKENS else 1
        found = sorted((self._decode_once(sequences, speculation) for _ in range(runs)), key=lambda run: run.step)
        return found[runs // 2]

    def _decode_once(self, sequences: int, speculation: Speculation) -> _Decoding:
        engine, watched = self._engine(sequences)
        for _ in range(sequences):
            engine.add(self._request(self._ids(SHORT), self.tokens, speculation))
        while engine.waiting or not all(sequence.stats.rounds for sequence in engine.running):
            engine.step()
        watched.seconds, watched.drafts, steps = 0.0, 0, 0
        began = time.perf_counter()
        while engine.running:
            engine.step()
            steps += 1
        took = time.perf_counter() - began
        steps = max(1, steps)
        return _Decoding(
            step=took / steps, outside=(took - watched.seconds) / steps, steps=steps, drafts=watched.drafts
        )

    def _prompt(self, tokens: int) -> float:
        """Seconds of a request of one token."""
        engine, _ = self._engine(1)
        return statistics.median(self._once(engine, self._ids(tokens)) for _ in range(RUNS))

    def _once(self, engine: Engine, ids: list[int]) -> float:
        began = time.perf_counter()
        engine.add(self._request(ids, 1, 0))
        while engine.running or engine.waiting:
            engine.step()
        return time.perf_counter() - began

    def _copying(self, costs: PassCosts, known: float) -> float:
        """Seconds of a byte of keys and values that come from the prefix cache."""
        prefix = min(PREFIX, self.target.config.max_position_embeddings // 4) // BLOCK * BLOCK
        if not prefix:
            return 0.0
        engine, _ = self._engine(1)
        shared = self._ids(prefix)
        self._once(engine, shared + self._ids(SHORT))
        took = statistics.median(self._once(engine, shared + self._ids(SHORT)) for _ in range(RUNS))
        rows = self.times.dense(SHORT, 0) + self.times.attention(prefix, SHORT, 1)
        rest = took - rows - known - costs.request - SHORT * costs.prompt_token
        return max(0.0, rest) / (prefix // BLOCK * self.target.kv.block_bytes)
