"""Two lanes that decode in turn: plain, and with speculation, at a real model's size with random weights.

Passes, draft steps, the choice of draft lengths and all bookkeeping are real, so speed is; the weights are random, so
the text is not, and a seeded coin accepts draft tokens at published rates.

The lane whose own clock is behind takes the next round. Both clocks therefore advance together, and whatever slows
the machine for a while slows both lanes alike. A lane's tokens/s count its own clock only.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest, Speculation
from geminate.errors import ParameterError
from geminate.params import SamplingParams
from geminate.tools.bench.step import StepBench, Work
from geminate.tools.bench.synthetic import Coin, synthetic_engine

PUBLISHED = (0.844, 0.599, 0.385, 0.271)
"""Chance that the first 1, 2, 3, 4 draft tokens are all accepted: Gemma 4 26B-A4B with its drafter in vLLM, as
published in spark-vllm-docker 343. Code accepts more, free prose at temperature 1 less."""
ROWS = 5  # of a verification pass with four draft tokens
ROUNDS = 5  # of measuring T(1) and T(ROWS)
PARTS = 5  # of the race, for the spread of the ratio
CLEAR = 1.02  # a ratio closer to 1 is called no difference


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Pass times of the shape, medians in seconds, beside the machine's limits in the same moments.

    Attributes:
        one, five: T(1) and T(ROWS).
        one_limit, five_limit: max(bytes / read bandwidth, multiply-accumulates / peak).
        ratio: median of T(ROWS) / T(1), taken in turn.
        bandwidth: bytes a second. peak: int8 multiply-accumulates a second.
    """

    one: float
    five: float
    one_limit: float
    five_limit: float
    ratio: float
    bandwidth: float
    peak: float


@dataclass
class Lane:
    """One of the two.

    Attributes:
        seconds, tokens: own clock and tokens so far, without the prompt.
        rounds: per round of the race the (tokens, of which accepted draft tokens).
        marks: by part of the race, (seconds, tokens) at its end.
    """

    name: str
    seconds: float = 0.0
    tokens: int = 0
    rounds: list[tuple[int, int]] = field(default_factory=list)
    marks: dict[int, tuple[float, int]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens a second of its own clock."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def rates(self) -> dict[int, float]:
        """Tokens a second by part; a part that a single long round has swallowed is missing."""
        points = [(0, (0.0, 0)), *self.marks.items()]
        return {part: (n - m) / (t - s) for (_, (s, m)), (part, (t, n)) in itertools.pairwise(points)}


def measure_passes(bench: StepBench, on_round: Callable[[int, int], None] = lambda done, total: None) -> Passes:
    """T(1) and T(`ROWS`) in turn with the machine's ceilings."""
    work, layers = Work(bench.config, bench.weights, all_logits=bench.all_logits), len(bench.config.layers)
    found: list[Passes] = []
    for rows in (1, ROWS):  # pages, tables, threads
        bench.step(rows)
    for index in range(ROUNDS):
        bandwidth, peak = bench.ceilings.bandwidth(), bench.ceilings.int8_peak()

        def limit(rows: int, bandwidth: float = bandwidth, peak: float = peak) -> float:
            reading = work.bytes(bench.experts_read, layers) / bandwidth
            return reading if bench.weights == "bf16" else max(reading, rows * work.macs() / peak)

        one, one_limit = bench.step(1), limit(1)
        five, five_limit = bench.step(ROWS), limit(ROWS)
        found.append(
            Passes(
                one=one, five=five, one_limit=one_limit, five_limit=five_limit, ratio=five / one,
                bandwidth=bandwidth, peak=peak,
            )
        )  # fmt: skip
        on_round(index + 1, ROUNDS)
    return Passes(**{f.name: statistics.median(getattr(p, f.name) for p in found) for f in fields(Passes)})


class Race:
    """The two lanes on one pair.

    Args:
        engine: of the pair, its costs measured; see `geminate.tools.bench.decode.engine_of_shape`.
        prompt: token ids that both lanes continue.
        survival: see `Coin`. seconds: of each lane's clock. speculation: of the second lane.
        clock: seconds; tests give their own.

    Raises:
        ParameterError: no time, or survival rates that are none.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: list[int],
        *,
        survival: list[float],
        seconds: float,
        speculation: Speculation = "auto",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if seconds <= 0:
            raise ParameterError(f"the race needs some seconds, not {seconds:g}")
        self.seconds, self.clock = seconds, clock
        coin = Coin(survival)
        limit = engine.target.config.max_position_embeddings - len(prompt) - 1
        sampling = SamplingParams(max_tokens=limit, temperature=0.0, ignore_eos=True).resolved()
        self.lanes = (Lane("plain"), Lane("speculating"))
        self._engines = tuple(synthetic_engine(engine, coin) for _ in self.lanes)
        chosen: tuple[Speculation, Speculation] = (0, speculation)
        self._sequences = []
        for lane, own, setting in zip(self.lanes, self._engines, chosen, strict=True):
            request = EngineRequest(request_id=lane.name, prompt_ids=prompt, sampling=sampling, speculation=setting)
            sequence = own.add(request)
            while not sequence.output_ids:  # the prompt
                own.step()
            self._sequences.append(sequence)

    def run(self) -> Iterator[Lane]:
        """Decode until both clocks are at ``seconds``; yields the lane that has just finished a round."""
        while (lane := min(self.lanes, key=lambda lane: lane.seconds)).seconds < self.seconds:
            at = self.lanes.index(lane)
            sequence, engine = self._sequences[at], self._engines[at]
            before, accepted = len(sequence.output_ids), sequence.stats.accepted
            began = self.clock()
            engine.step()
            lane.seconds += self.clock() - began
            made = len(sequence.output_ids) - before
            lane.tokens += made
            lane.rounds.append((made, sequence.stats.accepted - accepted))
            if (part := int(lane.seconds * PARTS / self.seconds)) > max(lane.marks, default=0):
                lane.marks[part] = (lane.seconds, lane.tokens)
            yield lane
            if sequence.finish_reason is not None:  # the context is full: the figures so far
                return

    @property
    def begun(self) -> bool:
        """Whether both lanes have decoded something, which `ratio` needs."""
        return all(lane.tokens for lane in self.lanes)

    def ratio(self) -> tuple[float, float, float]:
        """Median, least and greatest ratio of the lanes' tokens a second, over the parts of the race that are over."""
        plain, speculating = (lane.rates() for lane in self.lanes)
        ratios = [speculating[part] / plain[part] for part in plain if part in speculating]
        if not ratios and self.begun:  # stopped, or the context was full, before the first part was over
            ratios = [self.lanes[1].rate / self.lanes[0].rate]
        if not ratios:
            raise ParameterError("the race was over before anything was decoded; give it more seconds")
        return statistics.median(ratios), min(ratios), max(ratios)
