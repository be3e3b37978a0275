"""The simulated engine: times by hand, queues by theory, and what must hold for any load."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.tools.capacity.models import Candidate
from geminate.tools.capacity.simulate import Run
from geminate.tools.capacity.stand_in import StandInKVFactory
from geminate.tools.capacity.workload import Request, at_rate
from support.capacity import COSTS, FIRST, NEXT, PROMPT, alike, embedded, simulated


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    return embedded()


def test_one_client_takes_what_arithmetic_says(candidate: Candidate) -> None:
    run = simulated(candidate).closed_loop(alike(3, completion=5), 5, 1)
    assert [one.first_token_s for one in run.served] == pytest.approx([FIRST] * 3, rel=1e-9)
    assert [one.last - one.first for one in run.served] == pytest.approx([4 * NEXT] * 3, rel=1e-9)
    assert run.seconds == pytest.approx(3 * (FIRST + 4 * NEXT), rel=1e-9) and run.utilisation == 1.0


def test_a_long_prompt_takes_a_pass_a_chunk_and_its_attention(candidate: Candidate) -> None:
    costs = replace(COSTS, prompt_mac=1e-10)
    long, macs = 256 + 44, 0
    at = candidate.work.body.attention.at
    for start, rows in ((0, 256), (256, 44)):
        macs += rows * max(0, at(start + rows // 2).macs - at(64).macs)
    bare = (0.010 + 0.255) + (0.010 + 0.043) + 0.010 + 2 * 0.001 + 0.0005
    run = simulated(candidate, costs).closed_loop(alike(1, completion=1, prompt=long), 1, 1)
    assert macs > 0
    assert run.served[0].first_token_s == pytest.approx(bare + 1e-10 * macs, rel=1e-6)


def test_a_queue_of_single_passes_is_an_m_d_1_queue(candidate: Candidate) -> None:
    """Mean wait of Pollaczek and Khinchine: rho D / (2 (1 - rho)); that of an M/M/1 queue would be twice as long."""
    load, count = 0.6, 6000
    limits = {"max_running": 1, "max_waiting": 100_000}
    requests = at_rate(_poisson(count), load / FIRST)
    run = simulated(candidate, limits=limits).open_loop(requests, 1)
    wait = sum(one.first_token_s - FIRST for one in run.counted) / len(run.counted)
    theory = load * FIRST / (2 * (1 - load))
    assert wait == pytest.approx(theory, rel=0.1)
    assert abs(wait / (2 * theory) - 1) > 0.3
    assert run.utilisation == pytest.approx(load, rel=0.05)


def _poisson(count: int) -> list[Request]:
    source, now, made = random.Random(5), 0.0, []
    for index in range(count):
        now += source.expovariate(1.0)
        made.append(Request(index=index, arrival=now, prompt=PROMPT, completion=1))
    return made


def _mixed(seed: int, count: int = 40) -> list[Request]:
    source, now, made = random.Random(seed), 0.0, []
    for index in range(count):
        now += source.expovariate(1.0)
        prefix = source.choice((-1, 0, 1))
        made.append(
            Request(
                index=index,
                arrival=now,
                prompt=source.randint(1, 120) + (192 if prefix >= 0 else 0),
                completion=source.randint(1, 40),
                prefix=prefix,
                prefix_tokens=192 if prefix >= 0 else 0,
            )
        )
    return made


def _facts(run: Run) -> list[tuple[float, ...]]:
    return [(one.arrived, one.first, one.last, one.tokens) for one in run.served]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), rate=st.floats(0.2, 40.0), auto=st.booleans(), places=st.integers(1, 8))
def test_tokens_in_are_tokens_out_and_the_seed_decides(seed: int, rate: float, auto: bool, places: int) -> None:
    requests = at_rate(_mixed(seed), rate)
    what = simulated(
        embedded(),
        speculation="auto" if auto else 0,
        survival=(0.8, 0.5, 0.3),
        limits={"max_running": places, "max_waiting": 3},
    )
    run = what.open_loop(requests, 40)
    assert len(run.served) + run.refused + run.too_long == len(requests) and run.too_long == 0
    wanted = {request.arrival: request for request in requests}
    for one in run.served:
        assert (one.prompt, one.tokens) == (wanted[one.arrived].prompt, wanted[one.arrived].completion)
        assert one.arrived < one.first <= one.last
    assert run.most_running <= places and run.reused <= run.prompt_tokens and run.busy <= run.seconds + 1e-9
    assert run.accepted <= run.drafted and (auto or not run.drafted)
    assert _facts(what.open_loop(requests, 40)) == _facts(run)


def test_more_load_never_means_less_waiting(candidate: Candidate) -> None:
    what = simulated(candidate, limits={"max_waiting": 100_000})
    requests = _mixed(3, count=150)
    means = []
    for rate in (0.5, 2.0, 6.0, 12.0, 24.0, 48.0):
        run = what.open_loop(at_rate(requests, rate), 40)
        means.append(sum(one.first_token_s for one in run.counted) / len(run.counted))
    assert all(after >= 0.99 * before for before, after in itertools.pairwise(means)), means
    assert means[-1] > 3 * means[0]


def test_a_faster_machine_is_never_slower(candidate: Candidate) -> None:
    requests = at_rate(_mixed(4, count=80), 6.0)
    runs = [simulated(candidate, COSTS.scaled(factor)).open_loop(requests, 40) for factor in (0.5, 1.0, 2.0)]
    firsts = [run.first_token(0.5) for run in runs]
    assert firsts == sorted(firsts) and runs[0].utilisation < runs[2].utilisation


def test_a_full_queue_refuses(candidate: Candidate) -> None:
    run = simulated(candidate, limits={"max_running": 2, "max_waiting": 3}).open_loop(alike(20, 5), 5)
    assert run.refused == 15 and len(run.served) == 5


def test_a_common_prefix_is_computed_once(candidate: Candidate) -> None:
    shared = [
        Request(index=i, arrival=0.0, prompt=640 + 20, completion=2, prefix=0, prefix_tokens=640) for i in range(1, 9)
    ]
    first = [Request(index=0, arrival=0.0, prompt=660, completion=1, prefix=0, prefix_tokens=640)]
    what = simulated(candidate)
    warm, cold = (
        what.closed_loop(shared, 2, 1, first),
        what.closed_loop([replace(one, prefix=one.index) for one in shared], 2, 1, first),
    )
    assert warm.reused == 8 * 640 and cold.reused == 0
    assert warm.first_token(0.5) < 0.2 * cold.first_token(0.5)
    # What is copied takes its time: ten blocks into the cache of each request.
    copied = simulated(candidate, replace(COSTS, copy_byte=1e-7)).closed_loop(shared, 2, 1, first)
    least = 1e-7 * 10 * StandInKVFactory(candidate.config, max_rows=272, kv="f16").block_bytes
    assert copied.first_token(0.5) == pytest.approx(warm.first_token(0.5) + least, rel=1e-6)


def test_drafts_are_accepted_as_often_as_stated(candidate: Candidate) -> None:
    what = simulated(candidate, speculation=2, survival=(0.7, 0.35))
    run = what.closed_loop(alike(20, completion=120), 120, 4)
    full = run.drafted / 2  # rounds near the end of a completion are shorter
    assert run.accepted / full == pytest.approx(1.05, rel=0.06)
    always = simulated(candidate, speculation=2, survival=(1.0, 1.0)).closed_loop(alike(4, 121), 121, 1)
    assert always.acceptance_length == pytest.approx(3.0, rel=0.02)


def test_auto_gains_by_good_drafts_and_hardly_loses_by_bad_ones(candidate: Candidate) -> None:
    requests = alike(6, completion=200)
    plain = simulated(candidate).closed_loop(requests, 200, 1).tokens_per_s
    good = simulated(candidate, speculation="auto", survival=(0.9, 0.8, 0.7)).closed_loop(requests, 200, 1)
    bad = simulated(candidate, speculation="auto", survival=(0.02, 0.01)).closed_loop(requests, 200, 1)
    assert good.tokens_per_s > 1.7 * plain and bad.tokens_per_s > 0.93 * plain
