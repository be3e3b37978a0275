"""Which replica a request goes to: where its prefix lies, else the faster of two; slow and silent ones are avoided."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.service import ServiceSnapshot
from geminate.fleet import board as board_module
from geminate.fleet.board import Board
from geminate.fleet.messages import Batch, ReplicaStats
from geminate.kv.prefix_tree import block_digests
from geminate.params import SamplingParams

NAMES = ["a", "b", "c"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(board_module.time, "monotonic", made.monotonic)
    return made


def stats(blocks: list[bytes] | None = None, pass_s: float = 0.01, row_s: float = 0.001) -> ReplicaStats:
    return ReplicaStats(
        snapshot=ServiceSnapshot(running=0, waiting=0, kv_bytes_used=3, kv_bytes_limit=10),
        pass_s=(pass_s,) * 17,
        prompt_row_s=row_s,
        blocks=b"".join(blocks or []),
    )


def board(**published: ReplicaStats | None) -> Board:
    made = Board(max_running=4, chance=random.Random(1))
    made.update({name: published.get(name, stats()) for name in NAMES})
    return made


def request(number: int = 0, tokens: int = 300, name: str | None = None, **params: Any) -> EngineRequest:
    ids = [(number * 1000 + i) % 50_000 for i in range(tokens)]
    sampling = SamplingParams(**{"max_tokens": 50, **params}).resolved({})
    return EngineRequest(request_id=name or f"q{number}", prompt_ids=ids, sampling=sampling)


def test_published_prefixes(clock: Clock) -> None:
    wanted = request(1)
    made = board(b=stats(block_digests(wanted.prompt_ids, ())))
    assert {made.order(wanted, NAMES, ())[0] for _ in range(50)} == {"b"}
    firsts = Counter(made.order(request(2), NAMES, ())[0] for _ in range(200))
    assert set(firsts) == set(NAMES)  # nobody has this one


def test_what_was_sent_counts_until_it_is_old(clock: Clock) -> None:
    made = board()
    made.sent(request(1, name="x"), "c")
    made.ended("x", 10)
    assert {made.order(request(1), NAMES, ())[0] for _ in range(50)} == {"c"}
    clock.now += board_module.RECENT_S + 1
    assert len({made.order(request(1), NAMES, ())[0] for _ in range(50)}) > 1


def test_conversations_stay(clock: Clock) -> None:
    """Twenty conversations whose prompts grow: each stays where it began, and all replicas are used."""
    made = board()
    at: dict[int, set[str]] = {}
    for turn in range(1, 5):
        for number in range(20):
            asked = request(number, tokens=500 * turn, name=f"{number}-{turn}")
            place = made.order(asked, NAMES, ())[0]
            made.sent(asked, place)
            made.ended(asked.request_id, 50)
            at.setdefault(number, set()).add(place)
        clock.now += 1
    assert all(len(places) == 1 for places in at.values())
    assert set().union(*at.values()) == set(NAMES)


def test_a_busy_holder_is_left(clock: Clock) -> None:
    wanted = request(1)
    made = board(b=stats(block_digests(wanted.prompt_ids, ())))
    for number in range(2, 14):
        made.sent(request(number, tokens=2000), "b")
    assert "b" not in {made.order(wanted, NAMES, ())[0] for _ in range(50)}


def test_load_decides_between_two(clock: Clock) -> None:
    made = board()
    for number in range(6):
        made.sent(request(number), "a")
    firsts = Counter(made.order(request(9), NAMES, ())[0] for _ in range(300))
    assert firsts["a"] == 0 and min(firsts["b"], firsts["c"]) > 75


def test_a_slow_replica_is_routed_around(clock: Clock) -> None:
    """Its own figures say that it is fast; its answers take ten times as long, and come back in time."""
    made = board()
    for name, gap in (("a", 0.1), ("b", 0.01), ("c", 0.01)):
        asked = request(7, name=f"slow-{name}")
        made.sent(asked, name)
        watched = made.clock(asked)
        for position in range(30):
            event = EngineEvent(request_id=asked.request_id, position=position, token_ids=(1,))
            watched.tick(Batch(replica=name, events=(event,)))
            clock.now += gap
        watched.stop()
    slowness = made.slowness()
    assert slowness["a"] > 5 and slowness["b"] < 1.5
    assert {made.order(request(8), NAMES, ())[0] for _ in range(100)} == {"b", "c"}
    assert made.order(request(7), ["a", "b"], ())[0] == "b"  # also where it holds the prefix
    clock.now += 20 * board_module.FORGET_S
    assert "a" in {made.order(request(8), NAMES, ())[0] for _ in range(100)}


def test_a_stopped_replica_is_noticed_before_its_next_batch(clock: Clock) -> None:
    made = board()
    for name in NAMES:
        asked = request(3, name=f"run-{name}")
        made.sent(asked, name)
        made.clock(asked).tick(Batch(replica=name, events=(EngineEvent(request_id="", token_ids=(1,)),)))
    clock.now += 5
    for name in ("b", "c"):
        made.heard(f"run-{name}", name, 500, 5.0)
    assert "a" not in {made.order(request(8), NAMES, ())[0] for _ in range(50)}


def test_silent_and_avoided_replicas(clock: Clock) -> None:
    made = board()
    made.suspect("a")
    assert {made.order(request(1), NAMES, ("b",))[0] for _ in range(50)} == {"c"}
    assert made.order(request(1), NAMES, ("b",))[1:] in (["a", "b"], ["b", "a"])
    assert made.order(request(1), ["a", "b"], ("b",))[0] == "a"  # better than one that this request has lost
    assert made.order(request(1), ["b"], ("b",)) == ["b"]
    clock.now += board_module.SUSPECT_S + 1
    assert "a" in {made.order(request(1), NAMES, ())[0] for _ in range(50)}


def test_gone_replicas_are_forgotten(clock: Clock) -> None:
    made = board()
    changes: list[int] = []
    made.listeners.append(lambda: changes.append(made.count))
    made.sent(request(1), "a")
    made.update({"b": None})
    assert changes == [1] and made.at("q1") == "a"
    made.ended("q1", 5)
    made.gone("b")
    assert made.count == 0 and made.at("q1") == ""


def test_snapshot_adds_up(clock: Clock) -> None:
    now = board(c=None).snapshot(running=2, waiting=3)
    assert (now.running, now.waiting, now.kv_bytes_used, now.kv_bytes_limit) == (2, 3, 6, 20)


def test_statistics_survive_ray() -> None:
    made = stats([b"12345678", b"abcdefgh"])
    back = ReplicaStats.from_dict(made.as_dict())
    assert back == made and back.digests() == {b"12345678", b"abcdefgh"}
