"""The engine's own time beside passes and drafts, from short runs of a real engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geminate.arrays import F32
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest, Speculation
from geminate.params import SamplingParams
from geminate.plan.batch import Rows
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.sources.mtp import MtpDrafter

PROMPT = 32
SEVERAL = 4
SPENT_S = 0.4  # of passes in a run
LEAST_TOKENS, MOST_TOKENS = 6, 200


@dataclass(frozen=True, kw_only=True)
class OwnTimes:
    """Seconds; see `PassCosts`."""

    step: float
    sequence: float
    decision: float
    request: float


class _Watched:
    """A target and its drafter that add up what passes and drafts take."""

    def __init__(self, target: TargetModel, drafter: DrafterModel | None) -> None:
        self._target, self._extend = target, target.extend
        self._drafter = None if drafter is None else MtpDrafter(drafter)
        self.seconds = 0.0

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
        return made

    def __getattr__(self, name: str) -> object:
        return getattr(self._target, name)


def own_times(target: TargetModel, drafter: DrafterModel | None, pass_s: float) -> OwnTimes:
    """Measure; ``pass_s`` is what a pass over one row takes, so that slow models get short runs."""
    tokens = int(min(max(SPENT_S / pass_s, LEAST_TOKENS), MOST_TOKENS))
    _outside(target, drafter, 1, 2, 0)
    one = _outside(target, drafter, 1, tokens, 0)
    several = _outside(target, drafter, SEVERAL, tokens, 0)
    sequence = max(0.0, several - one) / (SEVERAL - 1)
    step = max(0.0, one - sequence)
    auto = _outside(target, drafter, 1, tokens, "auto")
    # A run of one token each is all beginning and end.
    request = max(0.0, _outside(target, drafter, 1, 1, 0) - step - sequence)
    return OwnTimes(step=step, sequence=sequence, decision=max(0.0, auto - one), request=request)


def _outside(
    target: TargetModel, drafter: DrafterModel | None, sequences: int, tokens: int, speculation: Speculation
) -> float:
    """Seconds of a step outside passes and drafts, with so many sequences that decode."""
    watched = _Watched(target, drafter)
    engine = Engine(target, watched.drafter, max_running=sequences, copies=False)
    engine.target = watched  # type: ignore[assignment]
    sampling = replace(SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True).resolved(), seed=1)
    runs = 5 if tokens == 1 else 1
    took, steps = 0.0, 0
    for run in range(runs):
        began = time.perf_counter()
        for index in range(sequences):
            ids = [3 + (7919 * (run + 1) * (index + 1) + at) % (target.config.vocab_size - 3) for at in range(PROMPT)]
            engine.add(
                EngineRequest(request_id=f"{run}-{index}", prompt_ids=ids, sampling=sampling, speculation=speculation)
            )
        if tokens > 1:  # the prompts are not counted
            while not all(sequence.stats.rounds for sequence in [*engine.running, *engine.waiting]):
                engine.step()
            watched.seconds = 0.0
            began = time.perf_counter()
        while engine.running or engine.waiting:
            engine.step()
            steps += 1
        took += time.perf_counter() - began - watched.seconds
        watched.seconds = 0.0
    return took / max(1, steps)
