"""Recorded timings of rounds, replayed to a draft-length policy, with coins in place of a text's acceptance."""

from __future__ import annotations

import itertools
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geminate.backends.kv_rings import KVRings
from geminate.decoding.draft_rule import DraftRule, confidence_bin
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import NO_LOAD
from geminate.speculation.costs import CostModel, CostProfile
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.policy import AutoPolicy, FixedPolicy, Policy

NO_CACHE = KVRings((), max_context=64, max_rows=17)
TRACES = Path(__file__).parents[1] / "speculation" / "traces"
Moment = Sequence[Sequence[float]]
"""Per recorded draft length: microseconds of [drafting, pass, each token's share of the rest]."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What `benchmarks/record_timings.py` wrote, or a made-up machine's."""

    lengths: tuple[int, ...]
    moments: list[Moment]
    profile: CostProfile

    @classmethod
    def read(cls, name: str) -> Trace:
        """A recorded one."""
        raw = json.loads((TRACES / f"{name}.json").read_text())
        return cls(lengths=tuple(raw["lengths"]), moments=raw["moments"], profile=CostProfile.from_dict(raw["profile"]))

    def at(self, index: int) -> Moment:
        """The moment of round ``index``; from the end it goes back, so that nothing jumps."""
        index %= 2 * len(self.moments)
        return self.moments[min(index, 2 * len(self.moments) - 1 - index)]

    def scaled(self, rows: float) -> Trace:
        """The same machine and noise, where what a draft adds to a pass, and drafting, cost ``rows`` times as much."""
        typical = [statistics.median(m[at][1] for m in self.moments) for at in range(len(self.lengths))]
        ratios = [max(1.0, t / typical[0]) for t in typical]
        moments = [
            [
                [rows * d if k else d, p * (1.0 + rows * (r - 1.0)) / r, s]
                for k, r, (d, p, s) in zip(self.lengths, ratios, m, strict=True)
            ]
            for m in self.moments
        ]
        return Trace(lengths=self.lengths, profile=self.profile, moments=moments)

    def seconds(self, moment: Moment, length: int) -> tuple[float, float, float]:
        """Of a round with ``length`` draft tokens, between the recorded lengths by proportion."""
        above = next(i for i, k in enumerate(self.lengths) if k >= length)
        if self.lengths[above] == length:
            drafting, passed, share = moment[above]
        else:
            low, high = self.lengths[above - 1], self.lengths[above]
            part = (length - low) / (high - low)
            pairs = zip(moment[above - 1], moment[above], strict=True)
            drafting, passed, share = (a + part * (b - a) for a, b in pairs)
        return drafting * 1e-6, passed * 1e-6, share * 1e-6


@dataclass
class Played:
    """What came of a replay.

    Attributes:
        seconds, tokens: altogether. lengths: draft length of every round. times: seconds of every round.
        reasons: why there was no draft -> rounds.
    """

    seconds: float = 0.0
    tokens: int = 0
    lengths: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Coins:
    """Whether the token at a place of the text is accepted: the same coin whatever was drafted before it."""

    def __init__(self, survival: Sequence[float], seed: int) -> None:
        steps = itertools.pairwise([1.0, *survival])
        self.rates = [after / before if before else 0.0 for before, after in steps]
        rng = random.Random(seed)
        self._tosses = [rng.random() for _ in range(1 << 14)]

    def accepted(self, drafted: int, place: int) -> int:
        """Of so many draft tokens, the first of which stands at ``place``."""
        for i, rate in enumerate(self.rates[:drafted]):
            if self._tosses[(place + i) % len(self._tosses)] >= rate:
                return i
        return min(drafted, len(self.rates))


class CoinDrafter:
    """Draft tokens whose confidence says no more than their place does."""

    def __init__(self, coins: Coins) -> None:
        self.rates = [*coins.rates, *[0.02] * 16]

    def draft(self, context: DraftContext, k: int) -> Draft:
        """See `Drafter`."""
        made, survival, stop = 0, 1.0, context.stop
        while made < k:
            survival *= 1.0 if stop is None else float(stop.calibration[confidence_bin(self.rates[made])])
            made += 1
            if stop is not None and made < k and survival * stop.ahead[made] < stop.need[made]:
                break
        return Draft(token_ids=tuple(range(made)), confidence=tuple(self.rates[:made]), steps=made)


@dataclass
class Server:
    """An engine's share of a policy: what outlives a request."""

    costs: CostModel
    stats: AcceptanceStats = field(default_factory=AcceptanceStats)

    def auto(self, coins: Coins) -> Policy:
        """A new request's policy."""
        return AutoPolicy(CoinDrafter(coins), self.costs, self.stats, copies=False)


def fixed(coins: Coins, k: int) -> Policy:
    """Always k draft tokens."""
    return FixedPolicy(CoinDrafter(coins), k)


def play(
    moments: Iterator[tuple[Trace, Moment]], policy: Policy, coins: Coins, tokens: int, costs: CostModel, start: int = 0
) -> Played:
    """One answer of ``tokens`` tokens, on the machine that ``moments`` are of, a round each."""
    played = Played()
    text = list(range(start + 8))
    series = False
    while played.tokens < tokens:
        trace, moment = next(moments)
        context = DraftContext(token_ids=text, hidden=np.zeros(1, np.float32), cache=NO_CACHE, rule=DraftRule())
        decision = policy.decide(context, 16, NO_LOAD)
        drafted = len(decision.draft.token_ids)
        accepted = coins.accepted(drafted, len(text))
        drafting = trace.seconds(moment, decision.draft.steps)[0]
        _, passed, share = trace.seconds(moment, drafted)
        if series or not decision.draft.steps:
            costs.observe_round(drafted, decision.draft.steps, len(text), drafting + passed + share)
        series = decision.draft.steps > 0
        policy.observe(decision, accepted)
        text.extend(range(accepted + 1))
        took = drafting + passed + share * (accepted + 2)
        played.seconds += took
        played.tokens += accepted + 1
        played.lengths.append(drafted)
        played.times.append(took)
        if decision.reason is not None:
            played.reasons[decision.reason] = played.reasons.get(decision.reason, 0) + 1
    return played


def endless(trace: Trace, start: int = 0) -> Iterator[tuple[Trace, Moment]]:
    """The trace again and again."""
    return ((trace, trace.at(start + index)) for index in itertools.count())


def best_fixed(trace: Trace, survival: Sequence[float], tokens: int, seed: int, start: int = 0) -> tuple[int, float]:
    """The draft length with most tokens a second, and its rate; 0 is among them."""
    rates: dict[int, float] = {}
    for k in (0, 1, 2, 3, 4, 6, 8):
        coins = Coins(survival, seed)
        rates[k] = play(endless(trace, start), fixed(coins, k), coins, tokens, CostModel()).rate
    best = max(rates, key=lambda k: rates[k])
    return best, rates[best]


def answers(
    trace: Trace, survival: Sequence[float], tokens: int, count: int, seed: int = 1, server: Server | None = None
) -> list[tuple[Played, float, float]]:
    """``count`` answers of one server, one after the other: (auto, rate of the best fixed k, plain rate)."""
    server = server or Server(CostModel(trace.profile))
    made = []
    for index in range(count):
        coins, start = Coins(survival, seed + index), 37 * index
        auto = play(endless(trace, start), server.auto(coins), coins, tokens, server.costs)
        plain = play(endless(trace, start), fixed(coins, 0), coins, tokens, CostModel()).rate
        made.append((auto, best_fixed(trace, survival, tokens, seed + index, start)[1], plain))
    return made
