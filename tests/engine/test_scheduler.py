"""Who reads its prompt when, on a clock that only the test moves: short before long, nobody starves, gaps bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate import LLM, SamplingParams
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest
from geminate.engine.pace import FIRST_ROWS, PromptPace
from geminate.engine.scheduler import Scheduler
from geminate.engine.sequence import Sequence
from geminate.errors import ParameterError
from geminate.speculation.policy.base import DraftAverages

CHUNK, MAX_ROWS = 64, 80
ROW_S, PASS_S = 0.01, 0.05  # what a row and a pass cost in the simulation


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Fake:
    """As much of a `Sequence` as a scheduler looks at: a prompt of ``length`` tokens."""

    name: str
    length: int
    arrived: float
    scores_prompt: bool = False
    ready: bool = True
    policy: Any = field(default_factory=lambda: SimpleNamespace(averages=DraftAverages()))

    def __post_init__(self) -> None:
        self.cache = SimpleNamespace(length=0)
        self.token_ids = [1] * self.length

    @property
    def pending(self) -> list[int]:
        return self.token_ids[self.cache.length :]

    @property
    def decoding(self) -> bool:
        return len(self.token_ids) - self.cache.length == 1 and self.length < len(self.token_ids)


class World:
    """A scheduler and sequences; a pass takes the time of its rows."""

    def __init__(self, beside: int = FIRST_ROWS, share: int | None = None) -> None:
        self.clock = Clock()
        self.beside_rows: list[int] = []

        def allowed(rows: int) -> int:
            self.beside_rows.append(rows)
            return beside

        self.scheduler = Scheduler(
            max_rows=MAX_ROWS, prefill_chunk=CHUNK, prefill_share=share, beside=allowed, clock=self.clock
        )
        self.running: list[Fake] = []
        self.first: dict[str, float] = {}

    def add(self, name: str, length: int, **more: Any) -> Fake:
        self.running.append(Fake(name, length, self.clock.now, **more))
        return self.running[-1]

    def step(self) -> int:
        """One pass; its prompt rows."""
        turns, room = self.scheduler.turns(cast(list[Sequence], self.running))
        rows = sum(len(turn.pending) for turn in turns)
        assert room >= 0 and rows + room <= MAX_ROWS
        self.clock.now += PASS_S + ROW_S * rows
        for turn in turns:
            fake = cast(Fake, turn.sequence)
            fake.cache.length += len(turn.pending)
            if turn.wants_logits:
                fake.token_ids.append(1)
                self.first.setdefault(fake.name, self.clock.now)
        return sum(len(turn.pending) for turn in turns if not turn.decoding)


def test_a_short_prompt_overtakes_a_long_one() -> None:
    world = World()
    world.add("long", 3_000)
    for _ in range(5):
        world.step()
    arrived = world.clock.now
    world.add("short", 40)
    while "short" not in world.first:
        world.step()
    assert world.first["short"] - arrived < 3 * (PASS_S + ROW_S * CHUNK)
    assert "long" not in world.first


def test_of_equals_the_shorter_goes_first_and_stays_first() -> None:
    world = World()
    for name, length in (("b", 200), ("c", 300), ("a", 100)):
        world.add(name, length)
    while len(world.first) < 3:
        world.step()
    assert sorted(world.first, key=world.first.__getitem__) == ["a", "b", "c"]


def test_a_first_token_does_not_wait_for_rows_of_others() -> None:
    world = World()
    world.add("long", 640)
    world.add("short", 40)
    assert world.step() == 40 and list(world.first) == ["short"]
    world = World()
    world.add("long", 640)
    world.add("tiny", 3)
    assert world.step() == 3 + CHUNK, "so few rows waste a pass over the weights"


def test_one_that_is_nearly_read_is_not_interrupted() -> None:
    world = World()
    world.add("long", 640)
    for _ in range(9):
        world.step()
    world.add("short", 60)
    world.step()
    assert list(world.first) == ["long"]


def test_a_long_prompt_ages_past_a_stream_of_short_ones() -> None:
    """Short prompts take nearly the whole time; the long one is read all the same, no later than its share."""
    world = World()
    world.add("long", 500)
    at = 0
    while "long" not in world.first:
        assert world.clock.now < 60, "starved"
        if at * (PASS_S + ROW_S * CHUNK) * 1.05 <= world.clock.now:  # 95 % of all there is
            world.add(f"short {at}", CHUNK)
            at += 1
        world.step()
        world.running = [fake for fake in world.running if fake.name not in world.first]
    assert at > 10


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 700), st.booleans()), min_size=1, max_size=25),
    st.integers(1, CHUNK),
)
def test_every_sequence_ends(arrivals: list[tuple[int, int, bool]], beside: int) -> None:
    """Any arrivals: every pass that has prompts reads some, so all are read; those who decode are in every pass."""
    world = World(beside)
    waiting = [(f"s{i}", *item) for i, item in enumerate(arrivals)]
    work = sum(length for _, _, length, _ in waiting)
    while waiting or len(world.first) < len(arrivals):
        if waiting:
            name, pause, length, scored = waiting.pop(0)
            world.clock.now += pause * 0.1
            world.add(name, length, scores_prompt=scored)
        decoding = [fake for fake in world.running if fake.decoding]
        before = {fake.name: fake.cache.length for fake in decoding}
        unread = any(not fake.decoding for fake in world.running)
        rows = world.step()
        assert rows > 0 or not unread
        assert not decoding or rows <= beside
        assert all(fake.cache.length == before[fake.name] + 1 for fake in decoding)
        work -= rows
    assert work == 0


def test_prompt_rows_beside_decoding_are_asked_for_with_the_drafts() -> None:
    world = World(beside=7)
    fake = world.add("decodes", 3)
    world.step()
    assert not world.beside_rows, "nobody waits for a token yet"
    fake.policy.averages.mean_drafted = 2.6
    world.add("prompt", 100)
    assert world.step() == 7 and world.beside_rows == [4]
    bounded = World(beside=50, share=9)
    bounded.add("decodes", 3)
    bounded.step()
    bounded.add("prompt", 100)
    assert bounded.step() == 9


def test_sizes_that_do_not_fit_are_refused() -> None:
    for chunk, share in ((0, None), (MAX_ROWS, None), (CHUNK, 0), (CHUNK, MAX_ROWS)):
        with pytest.raises(ParameterError, match="must be 1 to"):
            Scheduler(max_rows=MAX_ROWS, prefill_chunk=chunk, prefill_share=share, beside=int, clock=Clock())


def test_pace_fits_the_limit() -> None:
    pace = PromptPace(0.1)
    assert pace.rows(0.02) == FIRST_ROWS
    pace.observe(40, 0.06, 0.02)  # a millisecond a row
    assert pace.rows(0.02) == 80 and pace.rows(0.0) == 100
    assert pace.rows(0.3) == 300, "where decoding alone takes longer than the limit, prompts double it"
    for _ in range(50):
        pace.observe(40, 0.18, 0.02)  # now four
    assert pace.rows(0.02) == 20
    pace.observe(40, 16.0, 0.02)  # one pass that was held up
    assert pace.rows(0.02) >= 17
    pace.observe(1, 0.01, 0.02)  # a clock that says less than nothing
    assert 17 <= pace.rows(0.02) <= 25
    for _ in range(200):
        pace.observe(4, 9.0, 0.02)
    assert pace.rows(0.02) == 1, "at least one: no prompt stands still"


@pytest.fixture(scope="module")
def llm(packed_cache: object) -> Iterator[LLM]:
    with LLM(threads=1) as made:
        yield made


def add(llm: LLM, engine: Engine, prompt: int, **more: Any) -> Sequence:
    params = SamplingParams(max_tokens=6, temperature=0.8, seed=prompt, ignore_eos=True)
    ids = [2, *(5 + (7 * i + prompt) % 8000 for i in range(prompt - 1))]
    request = EngineRequest(
        request_id=f"r{prompt}", prompt_ids=ids, sampling=llm.resolve(params), speculation=0, **more
    )
    return engine.add(request)


@pytest.mark.parametrize("gap", [1e-9, 1.0])
def test_order_never_changes_tokens(llm: LLM, gap: float) -> None:
    """Orders that differ as much as they can: by arrivals long ago and by the rows that a pass may take."""
    lengths = (600, 30, 300, 80)
    said: list[dict[int, list[int]]] = []
    for ages in ((0, 0, 0, 0), (900, 0, 0, 100), (0, 900, 900, 0)):
        engine = llm.new_engine(max_gap_s=gap)
        sequences = {n: add(llm, engine, n) for n in lengths}
        for sequence, age in zip(sequences.values(), ages, strict=True):
            sequence.arrived -= age
        order: list[int] = []
        while engine.running or engine.waiting:
            engine.step()
            order += [n for n, s in sequences.items() if s.output_ids and n not in order]
        said.append({n: s.output_ids for n, s in sequences.items()})
        if ages == (0, 0, 0, 0):
            assert order[0] == 30
        elif ages[0] == 900 and gap == 1e-9:
            assert order[0] in (600, 80)
    assert said[0] == said[1] == said[2]
    for n in lengths:
        engine = llm.new_engine()
        single = add(llm, engine, n)
        engine.run()
        assert single.output_ids == said[0][n]


def test_progress_of_a_prompt(llm: LLM) -> None:
    engine = llm.new_engine(prefill_chunk=100)
    asked, quiet = add(llm, engine, 350, want_progress=True), add(llm, engine, 260)
    events = engine.run()
    told = [(e.progress.done, e.progress.total) for e in events if e.progress is not None]
    assert told == [(100, 350), (200, 350), (300, 350)]
    assert all(not e.token_ids and e.finish_reason is None for e in events if e.progress is not None)
    assert {e.request_id for e in events if e.progress is not None} == {asked.request.request_id}
    assert len(quiet.output_ids) == len(asked.output_ids) == 6
