"""Every setting that changes answers changes them, from a TOML file as well as from flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.serving import MODEL, Served, chat_body

CHAT = "/v1/chat/completions"
CONFIG = """
model_id = "my/model"
alias = ["other"]
speculation = "off"
max_context = 400
max_tokens = 9
max_choices = 2
log_prompts = true
prefix_cache = false
page = false
drafter = "embedded"
"""


@pytest.fixture(scope="module")
def served(packed_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with settings of its own; one flag wins over the file."""
    file = tmp_path_factory.mktemp("config") / "serve.toml"
    file.write_text(CONFIG)
    with Served("--config", str(file), "--alias", "third", env={"GEMINATE_SERVE_MAX_RUNNING": "3"}) as server:
        yield server.ready()


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post(CHAT, json={**chat_body(), "model": "my/model", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_names(client: httpx.Client) -> None:
    card, *aliases = client.get("/v1/models").json()["data"]
    assert [{**alias, "id": card["id"]} for alias in aliases] == [card] * len(aliases)
    assert card["id"] == "my/model" and card["max_model_len"] == 400
    assert client.get("/v1/models/my/model").json() == card == client.get("/v1/models/third").json()
    assert ask(client, model="third", max_tokens=1)["model"] == "my/model"
    for name in ("other", MODEL):
        assert client.post(CHAT, json={**chat_body(), "model": name}).status_code == 404


def test_speculation_is_off_unless_asked_for(client: httpx.Client) -> None:
    fields = {"max_tokens": 40, "ignore_eos": True, "seed": 1}
    off, on = ask(client, **fields), ask(client, speculation=4, **fields)
    assert off["timings"]["draft_n"] == 0 < on["timings"]["draft_n"] and off["choices"] == on["choices"]


def test_lengths(client: httpx.Client) -> None:
    assert ask(client, ignore_eos=True)["usage"]["completion_tokens"] == 9
    taken = ask(client, max_tokens=1)["usage"]["prompt_tokens"]
    assert ask(client, ignore_eos=True, max_tokens=400 - taken)["usage"]["total_tokens"] == 400
    prompt = {"model": "my/model"}
    assert client.post("/v1/completions", json={**prompt, "prompt": [5] * 400}).status_code == 400
    last = client.post("/v1/completions", json={**prompt, "prompt": [5] * 399})
    assert last.status_code == 200 and last.json()["usage"]["completion_tokens"] == 1


def test_choices(client: httpx.Client) -> None:
    assert len(ask(client, n=2, max_tokens=1)["choices"]) == 2
    refused = client.post(CHAT, json={**chat_body(), "model": "my/model", "n": 3})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "n"


def test_nothing_is_kept(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Tell me about dogs. " * 40}]
    for _ in range(2):
        usage = ask(client, messages=messages, max_tokens=1)["usage"]
        assert usage["prompt_tokens"] > 150 and usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_prompts_are_logged(served: Served, client: httpx.Client) -> None:
    ask(client, messages=[{"role": "user", "content": "marmalade one"}], max_tokens=1)
    client.post("/v1/completions", json={"model": "my/model", "prompt": "marmalade two", "max_tokens": 1})
    client.post("/v1/responses", json={"model": "my/model", "input": "marmalade three", "max_output_tokens": 1})
    client.get("/health/live", headers={"X-Request-Id": "x"})
    client.get("/v1/models", headers={"X-Request-Id": "after"})
    served.wait_log("request", request_id="after")
    for number in ("one", "two", "three"):
        assert f"marmalade {number}" in "".join(served.raw)


def test_no_page(client: httpx.Client) -> None:
    assert client.get("/").status_code == 404


def test_no_drafter(packed_cache: Path) -> None:
    with Served("--drafter", "none", "--speculation", "auto", "--threads", "1") as server:
        server.ready()
        with server.client() as client:
            assert client.get("/v1/models").json()["data"][0]["geminate"]["drafter"] is None
            refused = client.post(CHAT, json=chat_body(speculation=2))
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "speculation"
            assert client.post(CHAT, json=chat_body(max_tokens=5, speculation="ngram")).status_code == 200
