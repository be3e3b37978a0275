"""What is known of a model's replicas, and which of them suits a request best.

Replicas publish their load, their speed and the digests of the blocks in their prefix caches; the ingress adds what it
has sent since and how fast answers come. Used from the event loop of the ingress and the thread that routes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from geminate.engine.messages import EngineRequest
from geminate.engine.service import ServiceSnapshot
from geminate.fleet.messages import Batch, ReplicaStats
from geminate.kv.prefix_tree import block_digests
from geminate.kv.store import BLOCK

RECENT_S = 30.0  # for which a prompt that was sent counts as cached, published or not
MAX_RECENT = 20_000  # digests of such prompts, for each replica
SUSPECT_S = 30.0  # for which a silent replica gets nothing while there is another
PATIENCE = 2.0  # times as long as elsewhere that a request may take where its prefix lies
FORGET_S = 20.0  # in which half of what was observed of an idle replica's speed is forgotten
MEMORY_ROUNDS = 64.0  # rounds that the observed speed remembers
PRIOR_ROUNDS = 4.0  # rounds that the published speed weighs as much as
FIRST_TOKENS = 64.0  # an answer's tokens until answers were seen
WEIGHT = 0.1  # of an answer's tokens in the mean of all
UNKNOWN_PASS_S, UNKNOWN_ROW_S = 0.05, 0.005  # until a replica has published
SILENT_ROUNDS = 10.0  # rounds' time without a batch that is counted against a replica before the batch comes


@dataclass(eq=False, slots=True)
class _Load:
    """A request at a replica."""

    prompt: int
    sequences: int
    began: float


@dataclass(eq=False, slots=True)
class _Replica:
    """What is known of one replica.

    Attributes:
        blocks: digests that it has published. recent: digests of prompts that were sent to it -> when.
        loads: requests that it works on, by id.
        rounds, spent: rounds that were observed, in expected rounds' time, and in seconds over the expected seconds.
    """

    stats: ReplicaStats | None = None
    blocks: frozenset[bytes] = frozenset()
    recent: dict[bytes, float] = field(default_factory=dict)
    loads: dict[str, _Load] = field(default_factory=dict)
    expected: float = PRIOR_ROUNDS
    spent: float = PRIOR_ROUNDS
    observed_at: float = 0.0
    heard_at: float = 0.0
    suspect_until: float = 0.0

    def pass_s(self, rows: int) -> float:
        """Seconds of a pass, as it says itself."""
        if self.stats is None or not self.stats.pass_s:
            return UNKNOWN_PASS_S
        return self.stats.pass_s[min(rows, len(self.stats.pass_s)) - 1] or UNKNOWN_PASS_S

    @property
    def row_s(self) -> float:
        """Seconds to read a token of a prompt, as it says itself."""
        return UNKNOWN_ROW_S if self.stats is None else self.stats.prompt_row_s or UNKNOWN_ROW_S

    @property
    def sequences(self) -> int:
        """Completions that it works on."""
        return sum(load.sequences for load in self.loads.values())

    def slowness(self, now: float) -> float:
        """How many times as long as it says its rounds take, by what came of them lately."""
        expected, spent = self.expected, self.spent
        silent = (now - self.heard_at) / self.pass_s(max(1, self.sequences))
        if self.sequences and silent > SILENT_ROUNDS and all(not load.prompt for load in self.loads.values()):
            expected, spent = expected + 1.0, spent + silent
        faded = 0.5 ** (max(0.0, now - self.observed_at) / FORGET_S)
        slowness = 1.0 + (spent / expected - 1.0) * (1.0 if self.sequences else faded)
        return round(slowness, 1)  # small differences do not decide between two

    def observe(self, rounds: int, seconds: float, now: float) -> None:
        """Count the time of rounds of one completion."""
        self.expected += rounds
        self.spent += seconds / self.pass_s(max(1, self.sequences))
        if self.expected > MEMORY_ROUNDS:
            self.expected, self.spent = self.expected / 2, self.spent / 2
        self.observed_at = now


class Board:
    """The replicas of one model.

    Args:
        max_running: sequences that a replica decodes at once. chance: draws the two replicas that are compared.

    Attributes:
        listeners: called when the replicas may be others, in the thread that says so.
    """

    def __init__(self, *, max_running: int, chance: random.Random | None = None) -> None:
        self._max_running = max_running
        self._chance = chance or random.Random()
        self._lock = threading.RLock()
        self._replicas: dict[str, _Replica] = {}
        self._at: dict[str, str] = {}  # request id -> replica
        self._tokens = FIRST_TOKENS
        self.listeners: list[Callable[[], None]] = []

    @property
    def count(self) -> int:
        """Number of replicas."""
        return len(self._replicas)

    @property
    def names(self) -> frozenset[str]:
        """The replicas."""
        with self._lock:
            return frozenset(self._replicas)

    def stats(self) -> dict[str, ReplicaStats | None]:
        """What each replica has published last."""
        with self._lock:
            return {name: replica.stats for name, replica in self._replicas.items()}

    def slowness(self) -> dict[str, float]:
        """How many times as slow as it says each replica is."""
        with self._lock:
            now = time.monotonic()
            return {name: replica.slowness(now) for name, replica in self._replicas.items()}

    def snapshot(self, *, running: int, waiting: int) -> ServiceSnapshot:
        """Of all replicas together."""
        known = [stats.snapshot for stats in self.stats().values() if stats is not None]
        total = {
            name: sum(getattr(snapshot, name) for snapshot in known)
            for name in ("kv_bytes_used", "kv_bytes_kept", "kv_bytes_limit", "prefix_queries", "prefix_hits")
        }
        return ServiceSnapshot(running=running, waiting=waiting, **total)

    def update(self, published: dict[str, ReplicaStats | None]) -> None:
        """These are the replicas now, with what they have published, if anything."""
        with self._lock:
            for name in self._replicas.keys() - published.keys():
                del self._replicas[name]
            for name, stats in published.items():
                replica = self._replicas.setdefault(name, _Replica())
                if stats is not None and stats != replica.stats:
                    replica.stats, replica.blocks = stats, stats.digests()
        for listener in self.listeners:
            listener()

    def gone(self, name: str) -> None:
        """A replica has died."""
        with self._lock:
            self._replicas.pop(name, None)

    def suspect(self, name: str) -> None:
        """A replica is silent: it gets nothing for a while, unless there is no other."""
        with self._lock:
            if name in self._replicas:
                self._replicas[name].suspect_until = time.monotonic() + SUSPECT_S

    def sent(self, request: EngineRequest, name: str) -> None:
        """A request was sent to a replica."""
        digests = block_digests([*request.prompt_ids, *request.emitted_ids], request.contents)
        now = time.monotonic()
        with self._lock:
            replica = self._replicas.setdefault(name, _Replica())
            reuse = _reuse(replica, digests, now)
            prompt = len(request.prompt_ids) + len(request.emitted_ids) - reuse * BLOCK
            replica.loads[request.request_id] = _Load(prompt, request.n, now)
            replica.heard_at = max(replica.heard_at, now)
            self._at[request.request_id] = name
            for digest in digests:
                replica.recent.pop(digest, None)
                replica.recent[digest] = now
            while len(replica.recent) > MAX_RECENT:
                del replica.recent[next(iter(replica.recent))]

    def chosen(self, request_id: str, name: str) -> None:
        """A request is being sent to a replica, which has not taken it yet."""
        self._at[request_id] = name

    def at(self, request_id: str) -> str:
        """The replica that a request was sent to; "" while it was not."""
        return self._at.get(request_id, "")

    def clock(self, request: EngineRequest) -> Clock:
        """Watches the answer to a request."""
        return Clock(self, request)

    def heard(self, request_id: str, name: str, rounds: int, seconds: float | None) -> None:
        """A batch with so many rounds came; ``seconds`` after the one before it, None for the first one."""
        now = time.monotonic()
        with self._lock:
            replica = self._replicas.get(name)
            if replica is None:
                return
            replica.heard_at, replica.suspect_until = now, 0.0
            load = replica.loads.get(request_id)
            if load is not None and rounds:
                load.prompt = 0
            if seconds is not None and rounds:
                replica.observe(rounds, seconds, now)

    def ended(self, request_id: str, tokens: int) -> None:
        """A request is not at its replica any more."""
        with self._lock:
            name = self._at.pop(request_id, None)
            replica = self._replicas.get(name or "")
            if replica is not None:
                replica.loads.pop(request_id, None)
            if tokens:
                self._tokens += WEIGHT * (tokens - self._tokens)

    def order(self, request: EngineRequest, names: Sequence[str], avoid: Collection[str]) -> list[str]:
        """Replicas for a request, the best first.

        Where its prefix lies if that takes at most `PATIENCE` times as long as elsewhere; otherwise the faster of two
        drawn at random, by expected time.
        """
        digests = block_digests([*request.prompt_ids, *request.emitted_ids], request.contents)
        now = time.monotonic()
        with self._lock:
            known = {name: self._replicas.setdefault(name, _Replica()) for name in names}
            fine = [n for n in names if n not in avoid and known[n].suspect_until < now]
            fine = fine or [n for n in names if n not in avoid] or list(names)
            reuse = {name: _reuse(known[name], digests, now) for name in fine}
            drawn = self._chance.sample(fine, min(2, len(fine)))
            longest = max(reuse.values())
            holders = [name for name in fine if longest and reuse[name] == longest]
            times = {
                name: self._seconds(known[name], request, reuse[name], now) for name in dict.fromkeys(drawn + holders)
            }
        first = min(times, key=times.__getitem__)
        if holders:
            holder = min(holders, key=times.__getitem__)
            if times[holder] <= PATIENCE * times[first]:
                first = holder
        others = sorted(times.keys() - {first}, key=times.__getitem__)
        rest = [name for name in names if name not in times]
        return [first, *others, *(n for n in rest if n in reuse), *(n for n in rest if n not in reuse)]

    def _seconds(self, replica: _Replica, request: EngineRequest, reuse: int, now: float) -> float:
        """Expected seconds until the answer is complete."""
        tokens = min(self._tokens, request.sampling.max_tokens)
        beside = replica.sequences
        round_s = replica.pass_s(min(beside, self._max_running) + request.n)
        prompt = len(request.prompt_ids) + len(request.emitted_ids) - reuse * BLOCK
        unread = prompt + sum(load.prompt for load in replica.loads.values())
        seconds = unread * replica.row_s + tokens * round_s
        behind = beside + request.n - self._max_running
        if behind > 0:
            seconds += behind * tokens * round_s / self._max_running
        return seconds * replica.slowness(now)


def _reuse(replica: _Replica, digests: Sequence[bytes], now: float) -> int:
    """How many blocks of a prompt are in a replica's cache, from the first on."""
    for at, digest in enumerate(digests):
        if digest not in replica.blocks and replica.recent.get(digest, -RECENT_S) < now - RECENT_S:
            return at
    return len(digests)


class Clock:
    """Times the batches of one request at one replica, for the board."""

    def __init__(self, board: Board, request: EngineRequest) -> None:
        self._board, self._id = board, request.request_id
        self._last: float | None = None
        self._tokens = 0

    def tick(self, batch: Batch) -> None:
        """A batch came."""
        now = time.monotonic()
        rounds = sum(1 for event in batch.events if event.token_ids)
        choices = len({event.choice for event in batch.events}) or 1
        self._tokens += sum(len(event.token_ids) for event in batch.events)
        seconds = None if self._last is None else now - self._last
        self._board.heard(self._id, batch.replica, rounds // choices, seconds)
        if rounds:
            self._last = now

    def stop(self) -> None:
        """The request has ended there."""
        self._board.ended(self._id, self._tokens)


_BOARDS: dict[str, Board] = {}


def board_of(deployment: str, max_running: int) -> Board:
    """The board of a deployment in this process, which its router and its client share."""
    return _BOARDS.setdefault(deployment, Board(max_running=max_running))
