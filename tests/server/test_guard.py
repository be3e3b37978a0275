"""What one client sends must not keep the others waiting, and a broken engine must not look well."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from geminate.server.http import costs
from support.serving import Served, chat_body

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def served(packed_cache: Path) -> Iterator[Served]:
    with Served() as server:
        yield server.ready()


def slowest_live(served: Served, body: bytes, path: str) -> tuple[httpx.Response, float]:
    """The answer to a body, and the longest time that /health/live took meanwhile."""
    answers: list[httpx.Response] = []

    def send() -> None:
        with served.client() as client:
            answers.append(client.post(path, content=body, headers={"content-type": "application/json"}))

    thread = threading.Thread(target=send)
    slowest = 0.0
    with served.client() as client:
        client.get("/health/live")
        thread.start()
        while thread.is_alive():
            began = time.perf_counter()
            assert client.get("/health/live").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
    return answers[0], slowest


BODIES = {
    "bad ids": ("/v1/completions", lambda: {"prompt": [-1] * 1_000_000}, 400),
    "a prompt of 4 MB": ("/v1/completions", lambda: {"prompt": "word " * 800_000}, 400),
    "empty messages": (CHAT, lambda: {"messages": [{"role": "user", "content": ""}] * 100_000}, 400),
    "a text to tokenize": ("/tokenize", lambda: {"prompt": "word " * 200_000}, 200),
}


@pytest.mark.parametrize("name", BODIES)
def test_large_bodies_leave_the_event_loop_alone(served: Served, name: str) -> None:
    path, make, status = BODIES[name]
    body = json.dumps({"model": "geminate-embedded", **make()}).encode()
    answer, slowest = slowest_live(served, body, path)
    assert answer.status_code == status, answer.text[:300]
    assert slowest < 1.0  # 2 to 36 s before


def test_lists_of_tokens_are_bounded(served: Served) -> None:
    """4 MB of text or ids took over a gigabyte, and kept it."""
    with served.client() as client:
        long = client.post("/tokenize", json={"model": "geminate-embedded", "prompt": "word " * 250_000})
        assert long.status_code == 400 and "split it" in long.text
        ids = client.post("/detokenize", json={"model": "geminate-embedded", "tokens": [5] * 300_000})
        assert ids.status_code == 400 and "split them" in ids.text
        assert client.post("/detokenize", json={"model": "geminate-embedded", "tokens": [5] * 1000}).status_code == 200


def test_memory_of_large_bodies_comes_back(served: Served) -> None:
    body = json.dumps({"model": "geminate-embedded", "prompt": [0.5] * 700_000}).encode()
    process = psutil.Process(served.process.pid)
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(post, served, body) for _ in range(8)]
        assert {p.result() for p in posts} == {400}
    done.set()
    watching.join()
    assert peak - before < 200 << 20
    until = time.monotonic() + 30
    while process.memory_info().rss > before + (80 << 20) and time.monotonic() < until:
        time.sleep(0.5)
    assert process.memory_info().rss <= before + (80 << 20)


def post(server: Served, body: bytes) -> int:
    with server.client() as client:
        return client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"}).status_code


def test_a_flood_of_refusals_is_slowed_down(served: Served) -> None:
    """The first ones are answered at once; a client that goes on gets them at a walking pace."""
    with served.client() as client:
        flood = time.monotonic()
        for _ in range(costs.FREE):
            assert client.post(CHAT, json={}).status_code == 400
        if time.monotonic() - flood > 0.9:
            pytest.skip("this machine is too busy for a flood of refusals")
        began = time.monotonic()
        assert client.post(CHAT, json={}).status_code == 400
        slow = time.monotonic() - began
        time.sleep(1.1)
        began = time.monotonic()
        assert client.post(CHAT, json={}).status_code == 400
        assert time.monotonic() - began < 0.9 * costs.DELAY_S
    assert slow > costs.DELAY_S


def test_a_flood_stays_slow_as_long_as_it_lasts() -> None:
    account = costs._Account(0.0)
    now = 0.0
    waits = []
    for _ in range(200):
        waits.append(account.refused(now, 0.0))
        now += 0.002 + waits[-1]
    assert waits[: costs.FREE] == [0.0] * costs.FREE
    assert sum(waits) > 0.9 * (200 / costs.FREE - 2), "no more than the free ones a second"
    assert account.refused(now + 1.1, 0.0) == 0.0


def test_a_grammar_bomb_is_refused_and_grammars_go_on(served: Served) -> None:
    def ask(schema: object) -> httpx.Response:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with served.client() as client:
            return client.post(CHAT, json={**chat_body(), "max_tokens": 5, "response_format": form})

    assert ask({"type": "integer", "multipleOf": 99999989}).status_code == 400
    assert ask({"type": "integer", "maximum": 9}).status_code == 200


BROKEN = """
from geminate.runtime.target import TargetModel
real, calls = TargetModel.extend, []
def extend(self, parts):
    calls.append(1)
    if len(calls) in {calls}:
        raise RuntimeError("secret of the kernels")
    return real(self, parts)
TargetModel.extend = extend
"""


FAILING_DRAFTER = """
from geminate.runtime.drafter import DrafterModel
def draft(self, *args, **kwargs):
    raise TypeError("draft(): incompatible function arguments")
DrafterModel.draft = draft
"""


def test_a_failed_pass_is_an_error_for_its_request_alone(packed_cache: Path) -> None:
    with Served(prelude=BROKEN.replace("{calls}", "(3,)")) as server:
        server.ready()
        with server.client() as client:
            failed = client.post(CHAT, json={**chat_body(), "speculation": "off", "max_tokens": 16})
            assert failed.status_code == 500 and "secret" not in failed.text
            assert "RuntimeError" in failed.json()["error"]["message"]
            assert client.post(CHAT, json={**chat_body(), "max_tokens": 16}).status_code == 200
            assert client.get("/health/ready").status_code == 200
        assert server.stop() == 0


def test_a_dead_engine_ends_the_server_with_an_error(packed_cache: Path) -> None:
    with Served(prelude=BROKEN.replace("{calls}", "range(3, 99)")) as server:
        server.ready()
        with server.client() as client:
            for _ in range(2):
                assert client.post(CHAT, json={**chat_body(), "max_tokens": 16}).status_code == 500
        assert server.process.wait(30) not in (0, None)
        assert any("engine failed" in line for line in server.raw)


def test_a_drafter_that_always_fails_costs_speed_alone(packed_cache: Path) -> None:
    """An exception of the drafter's kernels once ended the engine at the first draft."""
    with Served(prelude=FAILING_DRAFTER) as server:
        server.ready()
        with server.client() as client:
            answer = client.post(CHAT, json={**chat_body(), "speculation": 4, "max_tokens": 8, "seed": 1})
            assert answer.status_code == 200, answer.text
            assert answer.json()["timings"]["draft_n"] == 0
            assert client.get("/health/live").status_code == 200


def test_dear_refusals_are_held_back_while_others_are_served() -> None:
    account = costs._Account(0.0)
    waits = [account.refused(0.0, 1.0) for _ in range(40)]
    free = round(costs.BURST_S / costs.DEAREST_S) - 1
    assert not any(waits[:free]) and waits[free + 1] > 0 and max(waits) <= costs.LONGEST_S
    assert account.refused(100.0, 1.0) == 0.0, "it is forgotten with time"
    alone = costs._Account(0.0)
    assert not any(alone.refused(0.1 * i, 0.0) for i in range(200))


def test_grammars_may_take_a_share_of_the_interpreter() -> None:
    account = costs._Account(0.0)
    now, worked = 0.0, 0.0
    while now < 60.0:  # one request after the other, 25 ms of work each
        now += 0.025 + max(0.0, account.used(now, 0.025))
        worked += 0.025
    assert costs.SHARE * 60 <= worked < costs.SHARE * 60 + costs.BURST_S + 0.1
    assert account.used(now + 10, 0.025) <= 0, "it is forgotten with time"


def test_what_a_client_costs_is_its_own() -> None:
    async def waits() -> list[float]:
        shared = costs.Costs()
        shared.inside = 2
        await shared.used("a", costs.BURST_S)
        found = []
        for client in ("b", "a"):
            began = time.monotonic()
            await shared.used(client, 0.01)
            found.append(time.monotonic() - began)
        return found

    other, own = asyncio.run(waits())
    assert own >= 0.1 > other
