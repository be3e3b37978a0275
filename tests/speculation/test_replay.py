"""``auto`` against recorded timings of an idle and of a busy machine: what it gains, may lose, and how fast it follows.

The traces are rounds of the embedded pair (`benchmarks/record_timings.py`); whether a draft token is accepted a seeded
coin decides. No test here reads a clock.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import replace

import pytest

from geminate.speculation.costs import CostModel
from support.replay import Coins, Moment, Server, Trace, answers, endless, play

IDLE = Trace.read("embedded_idle")
BUSY = replace(Trace.read("embedded_busy"), profile=IDLE.profile)  # the profile is of a machine that was idle
TRACES = {"idle": IDLE, "busy": BUSY}
GOOD, FAIR, POOR, NONE = (0.84, 0.60, 0.39, 0.27), (0.70, 0.50, 0.35, 0.25), (0.30, 0.08), (0.05, 0.01)
TOKENS = 200


@pytest.mark.parametrize("survival", [GOOD, FAIR], ids=["good", "fair"])
@pytest.mark.parametrize("name", TRACES)
def test_where_a_fixed_length_gains_auto_gains(name: str, survival: tuple[float, ...]) -> None:
    played = answers(TRACES[name], survival, TOKENS, 24)
    gains = [best / plain for _, best, plain in played]
    assert statistics.median(gains) > 1.3, "a trace in which nothing is to be gained shows nothing"
    assert statistics.median(auto.rate / best for auto, best, _ in played) >= 0.9
    assert all(max(auto.lengths) > 0 for auto, _, _ in played), "an answer without drafts"


@pytest.mark.parametrize("name", ["idle", "busy"])
def test_a_server_up_for_long_goes_on_drafting(name: str) -> None:
    """150 answers whose drafts are no use, then such that gain: nothing of the first rests on the second."""
    server = Server(CostModel(IDLE.profile))
    for index in range(150):
        coins = Coins(NONE, index)
        play(endless(TRACES[name], 37 * index), server.auto(coins), coins, TOKENS, server.costs)
    later = answers(TRACES[name], GOOD, TOKENS, 12, seed=500, server=server)
    assert all(sum(k > 0 for k in auto.lengths) > 0.3 * len(auto.lengths) for auto, _, _ in later)
    assert statistics.median(auto.rate / best for auto, best, _ in later[2:]) >= 0.9


@pytest.mark.parametrize(
    ("name", "dearer", "survival"),
    [("idle", 1.0, NONE), ("idle", 2.5, NONE), ("idle", 2.5, POOR), ("busy", 1.0, NONE)],
)
def test_where_drafts_lose_auto_is_plain(name: str, dearer: float, survival: tuple[float, ...]) -> None:
    played = answers(TRACES[name].scaled(dearer), survival, TOKENS, 24)
    assert max(best / plain for _, best, plain in played) < 1.05, "a trace in which drafts gain shows nothing"
    seconds = sum(auto.seconds for auto, _, _ in played)
    assert sum(auto.tokens / plain for auto, _, plain in played) / seconds >= 0.98


def changing(first: Trace, then: Trace, every: int) -> Iterator[tuple[Trace, Moment]]:
    """Rounds of one machine, then of the other, ``every`` rounds each."""
    for index in itertools.count():
        trace = then if index // every % 2 else first
        yield trace, trace.at(index)


@pytest.mark.parametrize(("first", "then"), [("idle", "busy"), ("busy", "idle")])
def test_load_that_comes_and_goes_is_followed(first: str, then: str) -> None:
    """From a machine on which drafts gain to one on which they lose, and back: within 100 rounds."""
    gaining, losing = TRACES[first], TRACES[then].scaled({"idle": 3.5, "busy": 12.0}[then])
    every = 400
    server, coins = Server(CostModel(IDLE.profile)), Coins(GOOD, 3)
    auto = play(changing(gaining, losing, every), server.auto(coins), coins, 4000, server.costs)
    drafted = [statistics.mean(k > 0 for k in auto.lengths[at + 100 : at + every]) for at in range(0, 1600, every)]
    assert min(drafted[0::2]) > 0.8 and max(drafted[1::2]) < 0.2
