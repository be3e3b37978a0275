"""An ingress that listens itself: limits on connections, its end, and the audit log."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate import LLM
from geminate.audit.fingerprints import fingerprints
from geminate.audit.lines import Line
from geminate.audit.verify import verify
from geminate.fleet.board import Board
from geminate.fleet.config import FleetConfig, ModelConfig, load_fleet
from geminate.fleet.ingress import IngressApp
from geminate.fleet.replica import ReplicaEngine
from geminate.server.listen import bind
from geminate.tools.replay import Replayer
from support.fleet import FakeLink

BODY = {"model": "geminate-embedded", "messages": [{"role": "user", "content": "Tell me a story."}], "seed": 3}


class Front:
    """See `geminate.fleet.ingress.Front`."""

    def __init__(self, *, stays: bool) -> None:
        self.stays, self.begun = stays, False  # there is no predecessor

    async def accepting(self) -> None:
        self.begun = True

    async def wanted(self) -> bool:
        return self.stays and self.begun


@pytest.fixture(scope="module")
def engines(packed_cache: Path) -> Iterator[dict[str, ReplicaEngine]]:
    from geminate.server.settings import Settings

    made = {f"r{i}": ReplicaEngine(f"r{i}", LLM(threads=1), Settings(threads=1), proof="p") for i in range(2)}
    yield made
    for engine in made.values():
        engine.close()


def config_of(folder: Path, serve: str) -> FleetConfig:
    path = folder / "fleet.toml"
    path.write_text(f"[serve]\nport = 0\n{serve}\n[[model]]\nthreads = 1\n")
    return load_fleet(path)


def living(
    config: FleetConfig,
    engines: dict[str, ReplicaEngine],
    work: Callable[[str, Callable[[], Awaitable[None]]], Awaitable[Any]],
    *,
    stays: bool = False,
) -> Any:
    """What ``work`` returns; it gets the address, and what ends the ingress."""
    listener = bind(config.settings, shared=True)
    front = Front(stays=stays)

    def connect(model: ModelConfig, board: Board) -> FakeLink:
        return FakeLink(engines, board)

    async def main() -> Any:
        app = IngressApp(config, connect, listen=lambda: listener, front=front)
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        life = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        assert (await outbox.get())["type"] == "lifespan.startup.complete" and front.begun
        app.ready("geminate-embedded")

        async def end() -> None:
            if inbox.empty() and not life.done():
                await inbox.put({"type": "lifespan.shutdown"})
                assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
                await life

        try:
            return await work(f"http://127.0.0.1:{listener.getsockname()[1]}", end)
        finally:
            await end()

    return asyncio.run(main())


def test_it_ends_when_its_streams_have_ended(tmp_path: Path, engines: dict[str, ReplicaEngine]) -> None:
    async def work(url: str, end: Callable[[], Awaitable[None]]) -> None:
        body = {**BODY, "max_tokens": 300, "ignore_eos": True, "stream": True, "temperature": 0}
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
        ):
            lines = response.aiter_lines()
            await anext(lines)
            ending = asyncio.ensure_future(end())
            await asyncio.sleep(0.3)
            with pytest.raises(httpx.ConnectError):
                await httpx.AsyncClient().get(f"{url}/health/live")
            rest = [line async for line in lines if line]
            assert rest[-1] == "data: [DONE]" and "error" not in "".join(rest)
        await asyncio.wait_for(ending, 30)

    living(config_of(tmp_path, ""), engines, work)


@pytest.mark.parametrize("stays", [False, True])
def test_a_kept_connection_is_told_to_go_when_the_fleet_ends(
    tmp_path: Path, engines: dict[str, ReplicaEngine], stays: bool
) -> None:
    """With a successor it is served until this ingress has nothing else to do."""

    async def work(url: str, end: Callable[[], Awaitable[None]]) -> int:
        long = {**BODY, "max_tokens": 400, "ignore_eos": True, "stream": True, "temperature": 0}
        async with httpx.AsyncClient(timeout=60) as kept, httpx.AsyncClient(timeout=60) as other:
            assert (await kept.get(f"{url}/v1/models")).status_code == 200
            async with other.stream("POST", f"{url}/v1/chat/completions", json=long) as running:
                lines = running.aiter_lines()
                await anext(lines)
                ending = asyncio.ensure_future(end())
                await asyncio.sleep(0.05)
                status = (await kept.post(f"{url}/v1/chat/completions", json={**BODY, "max_tokens": 1})).status_code
                async for _ in lines:
                    pass
            await asyncio.wait_for(ending, 30)
            return status

    assert living(config_of(tmp_path, ""), engines, work, stays=stays) == (200 if stays else 503)


def test_limits_on_connections(tmp_path: Path, engines: dict[str, ReplicaEngine]) -> None:
    async def work(url: str, end: Callable[[], Awaitable[None]]) -> float:
        port = int(url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/models HTTP/1.1\r\n")  # and no end of the head
        began = time.monotonic()
        await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return time.monotonic() - began

    assert 0.9 < living(config_of(tmp_path, "head_seconds = 1"), engines, work) < 10


def test_a_successor_listens_when_it_can_answer(tmp_path: Path, engines: dict[str, ReplicaEngine]) -> None:
    config, opened = config_of(tmp_path, ""), []

    def listen() -> socket.socket:
        opened.append(bind(config.settings, shared=True))
        return opened[0]

    async def main() -> None:
        front = Front(stays=True)
        front.begun = True
        app = IngressApp(config, lambda model, board: FakeLink(engines, board), listen=listen, front=front)
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        life = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        await asyncio.sleep(0.2)
        assert not opened and outbox.empty()
        app.ready("geminate-embedded")
        await outbox.get()
        url = f"http://127.0.0.1:{opened[0].getsockname()[1]}"
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/health/ready")).status_code == 200
        await inbox.put({"type": "lifespan.shutdown"})
        await life

    asyncio.run(main())


def test_two_may_listen_for_an_update(tmp_path: Path) -> None:
    settings = config_of(tmp_path, "").settings
    with bind(settings, shared=True) as first:
        port = first.getsockname()[1]
        with bind(dataclasses.replace(settings, port=port), shared=True) as second:
            assert second.getsockname() == first.getsockname()
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))


def test_the_audit_log_replays(tmp_path: Path, engines: dict[str, ReplicaEngine]) -> None:
    """Lines of streams that went on elsewhere too: they are one answer."""
    path = tmp_path / "audit.log"
    config = config_of(tmp_path, f'audit_log = "{path}"\naudit_content = "ids"')

    async def work(url: str, end: Callable[[], Awaitable[None]]) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for more in ({"temperature": 0}, {"n": 2}, {"temperature": 1.1, "stream": True}, {"temperature": -1}):
                await client.post(f"{url}/v1/chat/completions", json={**BODY, "max_tokens": 20, **more})

    living(config, engines, work)
    lines: list[Line] = []
    report = verify(path, on_line=lines.append)
    assert report.intact and report.requests == 4
    start = lines[0].record
    assert start["by"] == "geminate fleet" and json.loads(path.read_text().splitlines()[-1])["type"] == "stop"
    with LLM(threads=1) as llm:
        replayer = Replayer(llm, fingerprints(llm), speculation="off")
        for line in lines:
            if line.type == "request":
                replayer.replay(line)
    assert (replayer.tally.same, replayer.tally.differ) == (3, 0)
    assert list(replayer.tally.skipped) == ["the request was refused before anything was generated"]
