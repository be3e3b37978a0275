"""The routes in front of replicas: several models, the same streams when replicas die, keys, metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate import LLM
from geminate.fleet.board import Board
from geminate.fleet.config import FleetConfig, ModelConfig, load_fleet
from geminate.fleet.ingress import IngressApp
from geminate.fleet.replica import ReplicaEngine
from support.fleet import FakeLink

KEY = "0123456789abcdef0123456789abcdef"
TOML = """
[serve]
gauge_alias = ["num_requests_running=vllm:num_requests_running"]
[[model]]
model_id = "one"
threads = 1
[[model]]
model_id = "two"
alias = ["second"]
threads = 1
weights = "bf16"
speculation = "off"
"""
VOLATILE = ("id", "created", "timings", "system_fingerprint", "request_id", "item_id", "created_at")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"place": {"type": "string", "maxLength": 8}}},
        },
    }
]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"n": {"type": "integer", "maximum": 99}, "ok": {"type": "boolean"}},
            "required": ["n", "ok"],
            "additionalProperties": False,
        },
    },
}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"temperature": 0.9, "seed": 3, "logprobs": True, "top_logprobs": 2}),
    "greedy": ("/v1/chat/completions", {"temperature": 0, "stream_options": {"include_usage": True}}),
    "choices": ("/v1/chat/completions", {"n": 2, "seed": 4, "presence_penalty": 0.5}),
    "schema": ("/v1/chat/completions", {"response_format": SCHEMA, "seed": 5}),
    "tools": ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": "required", "seed": 6}),
    "responses": ("/v1/responses", {"input": "Tell me.", "max_output_tokens": 20, "temperature": 0.0}),
    "anthropic": ("/v1/messages", {"max_tokens": 20, "temperature": 0.0}),
    "completions": ("/v1/completions", {"prompt": "Once upon", "max_tokens": 20, "seed": 8, "stop": ["zzz"]}),
}


class Links:
    """The links of all models, by name."""

    def __init__(self) -> None:
        self.of: dict[str, FakeLink] = {}

    def connect(self, model: ModelConfig, board: Board) -> FakeLink:
        llm = LLM(threads=1, weights=model.settings.weights)
        engines = {
            f"{model.id}-{i}": ReplicaEngine(f"{model.id}-{i}", llm, model.settings, proof="p") for i in range(2)
        }
        self.of[model.id] = FakeLink(engines, board)
        return self.of[model.id]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FleetConfig:
    path = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    path.write_text(TOML)
    return load_fleet(path)


@pytest.fixture(scope="module")
def links() -> Links:
    return Links()


@pytest.fixture(scope="module")
def ingress(config: FleetConfig, links: Links) -> Iterator[IngressApp]:
    made = IngressApp(config, links.connect)
    yield made
    for link in links.of.values():
        for engine in link.engines.values():
            engine.service.stop()
    made.state.close()


@asynccontextmanager
async def client_of(app: IngressApp, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60, **more) as client:
        yield client


def using(app: IngressApp, work: Callable[[httpx.AsyncClient], Awaitable[Any]], **more: Any) -> Any:
    async def main() -> Any:
        async with client_of(app, **more) as client:
            return await work(client)

    return asyncio.run(main())


def test_before_a_replica_answers(ingress: IngressApp) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200

    using(ingress, work)
    ingress.ready("two")
    ingress.ready("one")


def test_models_side_by_side(ingress: IngressApp, links: Links) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health/ready")).status_code == 200
        cards = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["one", "two", "second"]
        assert [card["geminate"]["weights"] for card in cards][:2] != [cards[1]["geminate"]["weights"]] * 2
        tags = (await client.get("/api/tags")).json()["models"]
        assert [tag["name"] for tag in tags] == ["one", "two"]
        for name, model in (("one", "one"), ("two", "two"), ("second", "two")):
            before = {of: len(link.opened) for of, link in links.of.items()}
            body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            after = {of: len(link.opened) - before[of] for of, link in links.of.items()}
            assert after == {model: 1, ({"one", "two"} - {model}).pop(): 0}
        missing = await client.post("/v1/completions", json={"model": "none", "prompt": "x"})
        assert missing.status_code == 404 and "'one' and 'two'" in missing.json()["error"]["message"]
        unnamed = await client.post("/api/chat", json={"model": "one:latest", "messages": [], "stream": False})
        assert unnamed.status_code == 200

    using(ingress, work)


def stable(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {key: stable(item) for key, item in value.items() if key not in VOLATILE}
    return [stable(item) for item in value] if isinstance(value, list) else value


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    response = await client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert "text/event-stream" in response.headers["content-type"]
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [stable(json.loads(line)) for line in data if line != "[DONE]"]


TEXTS = ("content", "text", "delta", "arguments", "partial_json")
ENDS = ("finish_reason", "stop_reason", "status", "completion_tokens", "output_tokens", "logprob")


def told(events: list[Any]) -> dict[str, str]:
    """All text, log-probabilities, ends and counts of a stream by choice, however it was cut into events."""
    found: dict[str, str] = {}

    def walk(value: Any, choice: str) -> None:
        if isinstance(value, list):
            for item in value:
                walk(item, choice)
        elif isinstance(value, dict):
            choice = f"choice {value['index']}" if "finish_reason" in value and "index" in value else choice
            for key, item in value.items():
                if (key in TEXTS and isinstance(item, str)) or (key in ENDS and item is not None):
                    found[f"{choice} {key}"] = found.get(f"{choice} {key}", "") + str(item)
                walk(item, choice)

    walk(events, "")
    return found


@pytest.mark.parametrize("name", BODIES)
def test_streams_go_on(ingress: IngressApp, links: Links, name: str) -> None:
    path, fields = BODIES[name]
    body: dict[str, Any] = {"model": "one", "speculation": "off", **fields}  # as many events each time
    if "prompt" not in body and "input" not in body:
        body |= {"messages": [{"role": "user", "content": "Tell me a story."}]}
        body.setdefault("max_tokens", 30)
    link = links.of["one"]

    async def work(client: httpx.AsyncClient) -> None:
        link.fate = lambda number: None
        link.delivered = 0
        whole = await streamed(client, path, body)
        count = link.delivered
        assert count > 2
        for cut in sorted({2, count // 2, count}):
            link.delivered = 0
            link.fate = lambda number, cut=cut: "killed" if number == cut else None  # type: ignore[misc]
            before = dict(ingress.models["one"].losses)
            again = await streamed(client, path, body)
            assert ingress.models["one"].losses["continued"] == before.get("continued", 0) + 1
            assert told(again) == told(whole), cut

    using(ingress, work)


def test_metrics(ingress: IngressApp) -> None:
    async def work(client: httpx.AsyncClient) -> str:
        return (await client.get("/metrics")).text

    text = using(ingress, work)
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples['geminate:fleet_replicas{model_name="two"}']) == 2
    assert float(samples['geminate:fleet_lost_streams_total{model_name="one",outcome="continued"}']) > 5
    assert 'geminate:fleet_replica_running{model_name="one",replica="one-1"}' in samples
    assert 'geminate:num_requests_running{model_name="one"}' in samples
    assert 'vllm:num_requests_running{model_name="one"}' in samples
    assert float(samples['geminate:generation_tokens_total{model_name="one"}']) > 100
    helps = [line.split(" ", 3)[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(helps) == len(set(helps))


def test_keys_hold_on_every_route(config: FleetConfig, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY + "\n")
    keys.chmod(0o600)
    settings = dataclasses.replace(config.settings, api_key_file=str(keys))
    links = Links()
    app = IngressApp(dataclasses.replace(config, settings=settings, models=config.models[:1]), links.connect)
    app.ready("one")

    async def work(client: httpx.AsyncClient) -> None:
        for path in ("/v1/models", "/metrics", "/api/tags", "/ui/card", "/openapi.json", "/nothing"):
            assert (await client.get(path)).status_code == 401, path
        good = await client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        assert good.status_code == 200

    using(app, work)
    for engine in links.of["one"].engines.values():
        engine.service.stop()
    app.state.close()
