"""A server that is started again answers a long system prompt from its prefix store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from support.serving import Served, chat_body

SYSTEM = "The little robot walked to the river and looked at the water. " * 40


def ask(client: httpx.Client, text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    body = chat_body(max_tokens=8, temperature=0, trace=True) | {"messages": messages}
    return dict(client.post("/v1/chat/completions", json=body).raise_for_status().json())


def words(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for part in answer["geminate"]["rounds"] for token in part["tokens"]]


def test_a_restarted_server_knows_its_prompts(tmp_path: Path, packed_cache: Path) -> None:
    said: list[list[int]] = []
    flags = ("--prefix-store", str(tmp_path / "s"), "--prefix-store-bytes", "64MiB")
    for start in range(2):
        with Served(*flags) as server, server.ready().client() as client:
            answer = ask(client, "Who is it?")
            said.append(words(answer))
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 400) == (start > 0)
            metrics = server.metrics()
            assert (metrics["geminate:prefix_store_hits_total"] > 400) == (start > 0)
            again = ask(client, "Who is it?")
            assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 400 and words(again) == said[0]
            assert (
                server.metrics()["geminate:prefix_store_hits_total"] == metrics["geminate:prefix_store_hits_total"]
            ), "what was read joins the prefix cache"
            assert server.stop() == 0
        assert list(tmp_path.glob("s/*/*.kv")) and not list(tmp_path.glob("s/*/.writing-*"))
    assert said[0] == said[1]


def test_a_store_that_cannot_be_used_is_a_line_of_the_log(tmp_path: Path, packed_cache: Path) -> None:
    (tmp_path / "file").write_text("x")
    with Served(env={"GEMINATE_SERVE_PREFIX_STORE": str(tmp_path / "file")}) as server:
        server.ready()
        assert [line for line in server.log if "going on without it" in line["message"]]
        with server.client() as client:
            assert len(words(ask(client, "Who is it?"))) == 8
        assert server.metrics()["geminate:prefix_store_queries_total"] == 0
