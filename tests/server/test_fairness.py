"""Two keys, one of which wants everything: the other one is served between its requests, and finds a place."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx

from support.serving import Served, chat_body

GREEDY, MODEST = "greedy-key-0123456789", "modest-key-0123456789"


def test_a_greedy_client_leaves_room(tmp_path: Path, packed_cache: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{GREEDY}\n{MODEST}\n")
    keys.chmod(0o600)
    flags = ("--api-key-file", str(keys), "--max-running", "1", "--max-waiting", "7", "--max-tokens", "1900")
    ended: list[str] = []
    refused: list[httpx.Response] = []

    def ask(server: Served, key: str, tokens: int, name: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
            answer = client.post(
                "/v1/chat/completions", json=chat_body(max_tokens=tokens, ignore_eos=True, speculation="off")
            )
        if answer.status_code == 200:
            ended.append(name)
        else:
            refused.append(answer)

    with Served(*flags, key=GREEDY) as server:
        server.ready()
        crowd = [threading.Thread(target=ask, args=(server, GREEDY, 900, f"greedy {i}")) for i in range(10)]
        for thread in crowd:
            thread.start()
        server.until(lambda m: m["geminate:num_requests_running"] + m["geminate:num_requests_waiting"] == 6)
        until = time.monotonic() + 30
        while len(refused) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        assert len(refused) == 4  # six of eight places are the most that one client may have
        assert all(r.status_code == 429 and "6 of your requests" in r.text for r in refused)
        ask(server, MODEST, 5, "modest")
        for thread in crowd:
            thread.join()
    assert len(ended) == 7 and ended.index("modest") <= 2, ended
