"""Sockets that say nothing, or too much, shut nobody out; what is malformed is refused; the log stays short."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from geminate.server.http.places import Places, counted_address
from geminate.server.settings import Settings
from support.serving import Served

KEY = "a-key-of-the-tests"
MODELS = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
PART_OF_A_BODY = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n{"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"


@pytest.fixture(scope="module")
def keyed(packed_cache: Path) -> Iterator[Served]:
    """A server with a key and the default limits."""
    with Served(env={"GEMINATE_API_KEYS": KEY}, key=KEY) as server:
        yield server.ready()


def connect(server: Served) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def answered(sock: socket.socket) -> bool:
    """Whether the next answer, of which all is read, is a 200."""
    reader = sock.makefile("rb")
    first, length = reader.readline(), 0
    while (line := reader.readline().strip().lower()) != b"":
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return len(reader.read(length)) == length and first.startswith(b"HTTP/1.1 200")


def whole(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            got += data
    return got


def gets_through(server: Served, within: float = 1) -> bool:
    """Whether a new client with a key is answered within these seconds."""
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        return httpx.get(f"{server.url}/v1/models", headers=headers, timeout=within).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("said", [b"", b"GET /v1/mod", PART_OF_A_BODY, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_others_sockets_do_not_shut_out_a_key(keyed: Served, said: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            sock = stack.enter_context(connect(keyed))
            with contextlib.suppress(OSError):
                sock.sendall(said)
        assert [gets_through(keyed) for _ in range(20)] == [True] * 20


def test_nor_do_those_that_come_again_and_again(keyed: Served) -> None:
    over = threading.Event()

    def flood() -> None:
        held: list[socket.socket] = []
        while not over.is_set():
            with contextlib.suppress(OSError):
                held.append(connect(keyed))
            if len(held) > 600:
                held.pop(0).close()
        for sock in held:
            sock.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        time.sleep(0.5)
        assert [gets_through(keyed, 5) for _ in range(20)] == [True] * 20
    finally:
        over.set()
        thread.join()


def test_a_connection_with_a_key_is_not_given_away(keyed: Served) -> None:
    with connect(keyed) as kept, contextlib.ExitStack() as stack:
        kept.sendall(MODELS + b"\r\n")
        assert answered(kept)
        for _ in range(600):
            stack.enter_context(connect(keyed))
        kept.sendall(MODELS + b"\r\n")
        assert answered(kept)


def test_a_connection_without_a_key_has_little_time(packed_cache: Path) -> None:
    flags = ("--keyless-seconds", "0.3")
    with Served(*flags, env={"GEMINATE_API_KEYS": KEY}, key=KEY) as server:
        server.ready()
        live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for said in (b"", b"GET /hea", live, live + b"GET", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            with connect(server) as sock:
                began = time.monotonic()
                sock.sendall(said)
                whole(sock)
                assert time.monotonic() - began < 2, said
        with connect(server) as sock:
            for _ in range(3):
                sock.sendall(MODELS + b"\r\n")
                assert answered(sock)
                time.sleep(0.6)


@pytest.mark.parametrize("request_", [PART_OF_A_BODY, CHUNKED])
@pytest.mark.parametrize("more", [False, True])
def test_a_refused_request_ends_its_connection(keyed: Served, request_: bytes, more: bool) -> None:
    """Within a second, and the client gets the answer although it goes on sending."""
    with connect(keyed) as sock:
        began = time.monotonic()
        sock.sendall(request_)
        if more:
            with contextlib.suppress(OSError):
                for _ in range(20):
                    sock.sendall(b"1\r\n \r\n" * 10_000)
        answer = whole(sock)
        assert time.monotonic() - began < 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401") and b"connection: close" in head.lower() and b"invalid_api_key" in body


def test_a_refused_request_that_was_read_keeps_its_connection(keyed: Served) -> None:
    with connect(keyed) as sock:
        for _ in range(2):
            sock.sendall(PART_OF_A_BODY.replace(b"9999999", b"1"))
            answer = sock.recv(65536)
            while not answer.endswith(b"}}"):  # the head and the body may come apart
                answer += sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 401") and b"connection: close" not in answer.lower()


def test_lines_of_strangers_are_counted_not_written(packed_cache: Path) -> None:
    with Served("--max-connections", "20", env={"GEMINATE_API_KEYS": KEY}, key=KEY) as server:
        server.ready()
        began = time.monotonic()
        for said in (b"", b"\0\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            for _ in range(700):
                with connect(server) as sock, contextlib.suppress(OSError):
                    sock.sendall(said)
                    if said:
                        sock.recv(100)
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(server))
        time.sleep(1.5)
        kinds = ("gave way", "Invalid HTTP", "request")
        lines = [line for line in server.log if any(kind in line["message"] for kind in kinds)]
        assert len(lines) <= 3 * (time.monotonic() - began + 2)
        refused = [line for line in lines if line.get("status") == 401 or line["message"] == "request refused"]
        assert sum(line.get("left_out", 0) + (line["message"] == "request") for line in refused) == 700
        assert server.stop() == 0


@pytest.mark.parametrize("key", [b"", f"Authorization: Bearer {KEY}\r\n".encode()])
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_malformed_body_is_answered_once_and_no_error_of_ours(keyed: Served, key: bytes, pause: float) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + key + b"\r\n"
    with connect(keyed) as sock:
        sock.sendall(head + b"1\r\n{\r\n" * bool(pause))
        time.sleep(pause)
        sock.sendall(b"ZZZ\r\n")
        answer = whole(sock)
    assert answer.count(b"HTTP/1.1 4") == 1
    assert not [line for line in keyed.raw if "Traceback" in line]


def test_both_lengths_are_refused(keyed: Served) -> None:
    """A proxy that believes the other one would see other requests than we do."""
    both = b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + MODELS + b"\r\n"
    with connect(keyed) as sock:
        sock.sendall(MODELS + both)
        answer = whole(sock)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 400") and b"connection: close" in answer
    with connect(keyed) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + both)
        assert whole(sock).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "head",
    [
        MODELS.replace(b"\r\n", b"\n") + b"\n",
        MODELS + b"X-A: b\nX-C: d\r\n\r\n",
        MODELS + b"\n",
        MODELS + b"X-A: b\n\r\n",
        MODELS + b"X-A: b\n",
        b"\n" + MODELS + b"\r\n",
    ],
)
def test_bare_line_feeds_are_refused(keyed: Served, head: bytes) -> None:
    for before in (b"", MODELS + b"\r\n"):  # as the first request, and behind another one
        with connect(keyed) as sock:
            sock.sendall(before + head)
            answer = whole(sock)
            assert answer.count(b"HTTP/1.1 200") == bool(before) and answer.count(b"HTTP/1.1 400") == 1
    with connect(keyed) as sock:  # in two pieces, cut at any place
        sock.sendall(MODELS[:30])
        time.sleep(0.05)
        sock.sendall(MODELS[30:] + b"\r\n")
        assert answered(sock)


def test_line_feeds_in_a_body_are_fine(keyed: Served) -> None:
    with keyed.client() as client:
        answer = client.post(
            "/tokenize", content=b'{\n"prompt":\n"a"\n\n}', headers={"content-type": "application/json"}
        )
        assert answer.status_code == 200


def test_head_and_types(keyed: Served) -> None:
    with keyed.client() as client:
        for path in ("/health/live", "/health/ready", "/v1/models", "/v1/models/geminate-embedded", "/metrics"):
            head, got = client.head(path), client.get(path)
            assert head.status_code == got.status_code == 200 and not head.content, path
            assert head.headers["content-type"] == got.headers["content-type"]
            assert got.headers["x-content-type-options"] == "nosniff"
        assert client.head("/v1/completions").status_code == 405
        for answer in (client.get("/nothing"), client.post("/tokenize", content=b"x"), client.get("/", headers={})):
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


def test_long_paths_are_cut_in_the_log(keyed: Served) -> None:
    with connect(keyed) as sock:
        sock.sendall(
            MODELS.replace(b"/v1/models", b"/" + b"x" * 9000) + b"X-Request-Id: long-path\r\nConnection: close\r\n\r\n"
        )
        whole(sock)
    assert len(keyed.wait_log("request", request_id="long-path")["path"]) == 200


class Fake:
    """A connection of one address."""

    def __init__(self, host: str | None, *, accepted: bool = False, unread: bool = False) -> None:
        self.client = None if host is None else (host, 1)
        self.accepted, self._unread, self.closed = accepted, unread, False

    def may_speak(self) -> bool:
        return self._unread

    def give_way(self) -> None:
        self.closed = True


def places(total: int, per_address: int | None = None) -> Places:
    return Places(Settings(max_connections=total, max_connections_per_address=per_address))


def test_one_address_has_a_share(packed_cache: Path) -> None:
    found = places(40)
    mine = [Fake("192.0.2.1") for _ in range(10)]
    others = Fake("192.0.2.2")
    assert found.enter(others) and all(found.enter(one) for one in mine)
    assert found.enter(Fake("192.0.2.1")) and mine[0].closed and not others.closed, "its own oldest gives way"
    for one in mine[1:]:
        one.accepted = True
        found.judged(one)
    last = Fake("192.0.2.1")
    assert found.enter(last)
    last.accepted = True
    found.judged(last)
    assert not found.enter(Fake("192.0.2.1")), "all of them have a key: the new one is refused"
    assert found.enter(Fake("192.0.2.3"))
    found.leave(last)
    assert found.enter(Fake("192.0.2.1"))


def test_addresses_that_count() -> None:
    assert counted_address(("127.0.0.1", 1)) is counted_address(("::1", 1)) is counted_address(None) is None
    assert counted_address(("2001:db8::1", 1)) == counted_address(("2001:db8::ffff:2", 1))
    assert counted_address(("2001:db8::1", 1)) != counted_address(("2001:db8:0:1::1", 1))
    assert counted_address(("::ffff:192.0.2.1", 1)) == counted_address(("192.0.2.1", 1))


def test_strangers_have_half_and_a_refused_key_makes_a_stranger() -> None:
    found = places(4)
    kept = [Fake(None, accepted=True) for _ in range(3)]
    for one in kept:
        assert found.enter(one)
        found.judged(one)
    first, second = Fake(None), Fake(None)
    assert found.enter(first) and found.enter(second) and first.closed and not any(one.closed for one in kept)
    kept[0].accepted = False
    found.judged(kept[0])
    found.leave(second)
    assert found.enter(Fake(None)) and found.enter(Fake(None)) and kept[0].closed


def test_a_request_that_is_about_to_be_read_does_not_give_way() -> None:
    found = places(4)
    waiting, silent = Fake(None, unread=True), Fake(None)
    assert found.enter(waiting) and found.enter(silent) and found.enter(Fake(None))
    assert silent.closed and not waiting.closed
