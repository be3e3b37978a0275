"""``POST /demo``: `geminate demo` in a process of its own, its steps as server-sent events.

It takes gigabytes and both cores for half a minute, so only the person at the machine may start it: the server listens
on a loopback address and has no API keys. One at a time; it ends with the connection that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from geminate.server.http.errors import ApiError
from geminate.server.http.logs import context_of
from geminate.server.openai.sse import DONE, EventStream, event
from geminate.server.settings import Settings, is_loopback

COMMAND = (sys.executable, "-c", "from geminate.cli.app import app; app()", "demo", "--events", "--seconds", "8")
END_S = 5.0  # for a process that was asked to end


def demo_router(settings: Settings, keys: bool) -> APIRouter:
    """The route.

    Args:
        keys: whether the server has API keys.
    """
    router = APIRouter(include_in_schema=False)
    running = asyncio.Lock()

    @router.post("/demo")
    async def demo(request: Request) -> Response:
        if keys or not is_loopback(settings.host):
            raise ApiError(
                403,
                "the demo takes gigabytes and all cores, so it runs only on a server that listens on a loopback "
                "address and has no API keys; run `geminate demo` in a terminal instead",
                code="demo_not_allowed",
            )
        if running.locked():
            raise ApiError(409, "the demo is running already; wait until it has ended", code="demo_running")
        return EventStream(_events(running), context_of(request.scope), lambda: None)

    return router


async def _events(running: asyncio.Lock) -> AsyncGenerator[bytes, None]:
    async with running, _process() as process:
        assert process.stdout is not None and process.stderr is not None
        said = asyncio.create_task(process.stderr.read())
        async for line in process.stdout:
            with contextlib.suppress(ValueError):  # a line that is no event
                yield event(json.loads(line))
        code, text = await process.wait(), (await said).decode("utf-8", "replace").strip()
        if code != 0:
            message = text.splitlines()[-1][:1000] if text else f"the demo ended with code {code}"
            yield event({"type": "demo.error", "message": message.removeprefix("error: ")})
        yield DONE


@contextlib.asynccontextmanager
async def _process() -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """The running command, ended on the way out."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the server's terminal is the server's
    )
    try:
        yield process
    finally:
        for end in (process.terminate, process.kill):
            if process.returncode is None:
                end()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), END_S)
