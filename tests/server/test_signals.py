"""A real process: SIGTERM drains, a second one stops, kill -9 leaves nothing that hinders a restart."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
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


def test_a_signal_while_loading(packed_cache: Path) -> None:
    with Served() as server:
        assert server.stop() == 0
        assert "Traceback" not in "".join(server.raw)


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


def completes(server: Served, key: str) -> int:
    """The status of a short request with this key."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}{CHAT}", json=chat_body(max_tokens=1), headers=headers, timeout=60).status_code


def test_sighup_reads_the_keys_again(packed_cache: Path, tmp_path: Path) -> None:
    """A key that is gone stops at once, also on an open connection; a stream that runs goes on."""
    old, new, shared = "the-key-that-goes", "the-key-that-comes", "the-key-of-the-environment"
    file = tmp_path / "keys"
    file.write_text(f"{old}\n")
    file.chmod(0o600)
    with Served("--api-key-file", str(file), env={"GEMINATE_API_KEYS": shared}, key=old) as server:
        server.ready()
        with server.client() as client, server.client() as kept:
            assert kept.get("/v1/models").status_code == 200 and completes(server, new) == 401
            with client.stream("POST", CHAT, json=chat_body(stream=True, **LONG)) as running:
                chunks = events(running)
                next(chunks)
                file.write_text(f"{new}\n")
                server.process.send_signal(signal.SIGHUP)
                assert server.wait_log("API keys reloaded")["keys"] == 2
                assert kept.get("/v1/models").status_code == 401
                assert [completes(server, key) for key in (old, new, shared)] == [401, 200, 200]
                assert list(chunks)[-1]["choices"][0]["finish_reason"] == "length"
        for broken in ("", "short\n", None):
            server.log.clear()
            if broken is None:
                file.unlink()
            else:
                file.write_text(broken)
            server.process.send_signal(signal.SIGHUP)
            line = server.wait_log("the API keys stay as they were")
            assert line["level"] == "error" and line["error"]
            assert [completes(server, key) for key in (old, new)] == [401, 200], broken
        assert server.stop() == 0


def test_sighup_without_a_key_file_changes_nothing(packed_cache: Path) -> None:
    with Served() as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("nothing to reload: there is no API key file")
        with server.ready().client() as client:
            assert client.get("/v1/models").status_code == 200
        assert server.stop() == 0


def test_a_closed_terminal_stops_the_server(packed_cache: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from geminate.cli.app import app; app()", "serve", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said = b""
        while b" ready" not in said:
            said += os.read(ours, 65536)
        process.send_signal(signal.SIGHUP)
        while b"nothing to reload" not in said:
            said += os.read(ours, 65536)
        os.close(ours)
        time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
