"""Clients that are slow, gone, too many or too large cost little and are told so."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.serving import MODEL, Served, chat_body, events

CHAT = "/v1/chat/completions"
LONG = {"max_tokens": 1900, "ignore_eos": True, "seed": 1}


@pytest.fixture(scope="module")
def strict(packed_cache: Path) -> Iterator[Served]:
    """A server with short patience and little room."""
    flags = (
        "--head-seconds", "0.5", "--body-seconds", "0.5", "--write-seconds", "0.5", "--idle-seconds", "1",
        "--max-running", "1", "--max-waiting", "1", "--max-body-bytes", "1MiB", "--max-connections", "20",
        "--max-tokens", "1900",
    )  # fmt: skip
    with Served(*flags) as server:
        yield server.ready()


def connect(server: Served, receive_buffer: int | None = None) -> socket.socket:
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", server.port))
    return sock


def closed_within(sock: socket.socket, trickle: bytes = b"") -> bytes:
    """What came until the server closed the connection, while we send a byte now and then."""
    got = b""
    sock.settimeout(0.1)
    for _ in range(300):
        try:
            data = sock.recv(65536)
            if not data:
                return got
            got += data
        except TimeoutError:
            if trickle:
                with contextlib.suppress(OSError):
                    sock.send(trickle)
        except ConnectionError:
            return got
    raise AssertionError("the connection stayed open")


@pytest.mark.parametrize("trickle", [b"", b"x"])
@pytest.mark.parametrize("head", [b"", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_slow_heads_are_closed(strict: Served, head: bytes, trickle: bytes) -> None:
    with connect(strict) as sock:
        sock.sendall(head)
        assert closed_within(sock, trickle if head else b"") == b""


@pytest.mark.parametrize("trickle", [b"", b" "])
def test_slow_bodies_are_closed(strict: Served, trickle: bytes) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with connect(strict) as sock:
        sock.sendall(head.encode() + b'{"model":')
        assert closed_within(sock, trickle) == b""
    with strict.client() as client:
        assert client.get("/health/live").status_code == 200


def test_second_requests_head_on_a_kept_connection(strict: Served) -> None:
    with connect(strict) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert closed_within(sock, b"").count(b"HTTP/1.1 200") == 1


def test_idle_connections_are_closed(strict: Served) -> None:
    with connect(strict) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in closed_within(sock)


def test_large_bodies(strict: Served) -> None:
    """Announced or not, and the client reads the answer although it has not sent all."""
    with strict.client() as client:
        announced = client.post(CHAT, content=b"x" * 10_000_000, headers={"content-type": "application/json"})
        chunked = client.post(
            CHAT, content=(b"x" * 65536 for _ in range(160)), headers={"content-type": "application/json"}
        )
        for answer in (announced, chunked):
            assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"
        fits = client.post("/tokenize", json={"prompt": "word " * 100_000})
        assert fits.status_code == 200


def test_a_gone_client_frees_everything(strict: Served) -> None:
    before = strict.metrics()
    for streaming in (True, False):
        body = json.dumps(chat_body(stream=streaming, **LONG)).encode()
        with connect(strict) as sock:
            sock.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nX-Request-Id: gone-{streaming}\r\n\r\n".encode()
                + body
            )
            strict.until(lambda m: m["geminate:num_requests_running"] == 1)
        line = strict.wait_log("request", request_id=f"gone-{streaming}")
        assert line["status"] == 499 and line["aborted"] and line["completion_tokens"] < 1900
        after = strict.until(lambda m: m["geminate:num_requests_running"] == 0)
    aborted = 'geminate:request_success_total{finished_reason="abort",}'
    assert after[aborted] - before[aborted] == 2
    assert after['geminate:kv_cache_usage_perc{kv="f16",}'] <= 1.0


def test_a_client_that_does_not_read_is_dropped(strict: Served) -> None:
    body = json.dumps(chat_body(stream=True, trace=True, logprobs=True, top_logprobs=20, **LONG)).encode()
    with connect(strict, receive_buffer=4096) as sock:
        sock.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: deaf\r\n\r\n".encode()
            + body
        )
        assert strict.wait_log("request", request_id="deaf")["status"] == 499
    assert strict.wait_log("client did not read its response; connection closed")
    strict.quiet()


def test_a_full_queue_says_so(strict: Served) -> None:
    """One runs, one waits, the third is told to come back; the first two get their answers."""
    with strict.client() as one, strict.client() as two, strict.client() as three:
        with one.stream("POST", CHAT, json=chat_body(stream=True, **LONG)) as first:
            chunks = events(first)
            next(chunks)
            second: list[httpx.Response] = []
            thread = threading.Thread(
                target=lambda: second.append(two.post(CHAT, json=chat_body(max_tokens=5, ignore_eos=True)))
            )
            thread.start()
            strict.until(lambda m: m["geminate:num_requests_waiting"] == 1 or m["geminate:num_requests_running"] == 0)
            third = three.post(CHAT, json=chat_body(max_tokens=5))
            rest = list(chunks)
            thread.join()
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
        assert second[0].status_code == 200 and second[0].json()["usage"]["completion_tokens"] == 5
        if third.status_code != 200:  # the first may have been quick
            assert third.status_code == 429 and int(third.headers["retry-after"]) >= 1
            assert third.json()["error"]["code"] == "queue_full"


def test_too_many_prompts_for_the_queue_leave_nothing_behind(strict: Served) -> None:
    with strict.client() as client:
        answer = client.post(
            "/v1/completions", json={"model": MODEL, "prompt": ["a"] * 6, "max_tokens": 900, "ignore_eos": True}
        )
        assert answer.status_code == 429
    strict.quiet()


def test_connections_are_bounded(strict: Served) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(strict)) for _ in range(40)]
        time.sleep(0)
        dropped = 0
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            dropped += b"200 OK" not in closed_within(sock)
        assert 20 <= dropped < 40
    with strict.client() as client:
        assert client.get("/health/live").status_code == 200


def test_time_per_request(packed_cache: Path) -> None:
    with Served("--request-seconds", "0.2") as server:
        server.ready()
        with server.client() as client:
            body = chat_body(n=16, logprobs=True, top_logprobs=20, speculation="off", **LONG)
            answer = client.post(CHAT, json=body)
            assert answer.status_code == 504 and answer.json()["error"]["code"] == "request_timeout"
            assert answer.headers["x-should-retry"] == "false"  # the official clients would try it again
            with client.stream("POST", CHAT, json={**body, "stream": True}) as streamed:
                last = list(events(streamed))[-1]
            assert last["error"]["code"] == "request_timeout"
        server.quiet()


def test_an_unbounded_answer_shrinks_to_the_memory(packed_cache: Path) -> None:
    """A request that names a length is refused if it cannot fit; one that names none is answered."""
    with Served("--kv-bytes", "300KiB", "--no-prefix-cache") as server:
        server.ready()
        with server.client() as client:
            refused = client.post(CHAT, json=chat_body(max_tokens=2000))
            assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
            answer = client.post(CHAT, json=chat_body(ignore_eos=True, seed=1))
            assert answer.status_code == 200, answer.text
            assert 1 <= answer.json()["usage"]["completion_tokens"] < 2000
