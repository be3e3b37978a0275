"""A real process: SIGTERM drains, a second one stops, kill -9 leaves nothing that hinders a restart."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx

from support.serving import Served, chat_body, events

CHAT = "/v1/chat/completions"
LONG = {"max_tokens": 1900, "ignore_eos": True, "seed": 1, "logprobs": True, "top_logprobs": 20, "speculation": "off"}


def test_sigterm_lets_running_requests_finish(packed_cache: Path) -> None:
    with Served() as server:
        server.ready()
        with (
            server.client() as one,
            server.client() as two,
            one.stream("POST", CHAT, json=chat_body(stream=True, **LONG)) as running,
        ):
            chunks = events(running)
            next(chunks)
            server.process.send_signal(signal.SIGTERM)
            server.wait_log("draining")
            for path in (CHAT, "/v1/completions"):
                refused = two.post(path, json=chat_body(max_tokens=1))
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
                assert refused.headers["connection"] == "close" and int(refused.headers["retry-after"]) > 0
            assert two.get("/health/ready").status_code == 503
            assert two.get("/health/live").status_code == 200
            rest = list(chunks)
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(60) == 0
        server.wait_log("stopped")


def test_the_time_to_drain_is_bounded(packed_cache: Path) -> None:
    with Served("--drain-seconds", "0.1") as server:
        server.ready()
        with server.client() as client:
            body = chat_body(stream=True, n=16, **LONG)
            with client.stream("POST", CHAT, json=body) as running:
                chunks = events(running)
                next(chunks)
                server.process.send_signal(signal.SIGTERM)
                assert list(chunks)[-1]["error"]["code"] == "draining"
        assert server.process.wait(60) == 0


def test_a_second_signal_stops_at_once(packed_cache: Path) -> None:
    with Served("--drain-seconds", "3600") as server:
        server.ready()
        with (
            server.client() as client,
            client.stream("POST", CHAT, json=chat_body(stream=True, n=16, **LONG)) as running,
        ):
            next(events(running))
            server.process.send_signal(signal.SIGTERM)
            server.wait_log("draining")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0


def test_ready_only_when_loaded(packed_cache: Path) -> None:
    """The socket is open before the model is there: no answer but 503 until the log says ready."""
    with Served() as server:
        with server.client() as client:
            seen = {client.get("/health/ready").status_code for _ in range(3)}
            assert seen <= {200, 503}
            server.ready()
            assert client.get("/health/ready").status_code == 200
        assert server.stop() == 0


def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path) -> None:
    with Served(str(tmp_path)) as server:
        line = server.wait_log("the model could not be loaded")
        assert str(tmp_path) in line["error"]
        assert server.process.wait(60) == 2
        assert "Traceback" not in "".join(server.raw)


def test_kill_and_restart_answers_the_same(packed_cache: Path) -> None:
    body = chat_body(max_tokens=60, seed=9, logprobs=True)
    answers = []
    for _ in range(2):
        with Served() as server:
            server.ready()
            port = server.port
            with server.client() as client:
                answers.append(client.post(CHAT, json=body).json())
                thread = threading.Thread(target=_ignore, args=(client,))
                thread.start()
                server.until(lambda m: m["geminate:num_requests_running"] >= 1)
                server.process.kill()
                server.process.wait()
                thread.join()
    assert port
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["system_fingerprint"] == answers[1]["system_fingerprint"]


def _ignore(client: httpx.Client) -> None:
    try:
        client.post(CHAT, json=chat_body(n=16, **LONG))
    except httpx.HTTPError:
        return
    raise AssertionError("an answer from a killed server")
