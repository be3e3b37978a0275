"""A server with the real page and scripted answers, for what the real one does not do on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from geminate.server.page.routes import page_router

WORDS = [
    (10, "Once", "target"), (11, " upon", "drafter"), (12, " a", "drafter"), (13, " time", "target"),
    (14, " the", "copied"), (15, " end", "copied"), (16, ".", "forced"), (106, "<turn|>", "target"),
]  # fmt: skip
CARD = {
    "id": "fake", "version": "0", "context": 2048, "drafter": None, "speculation": "auto", "threads": 2,
    "instructions": "avx2", "target": {"name": "fake", "type": "t", "parameters": 2_300_000_000, "bytes": 1_300_000_000,
                                       "format": "int4"},
    "memory": {"resident": 1_500_000_000, "kv_used": 0, "kv_limit": 400_000_000}, "max_tokens": 512, "thinking": True,
    "sampling": {"temperature": 1.0, "top_p": 0.95, "top_k": 64, "min_p": 0.0, "repetition_penalty": 1.0},
}  # fmt: skip
TIMINGS = {
    "prompt_n": 9, "cached_n": 0, "prompt_ms": 3.5, "predicted_n": 8, "predicted_ms": 40.0,
    "predicted_per_second": 175.0, "draft_n": 5, "draft_n_accepted": 4, "acceptance_length": 2.0,
    "accepted_per_position": [2, 2], "drafted_per_position": [3, 2], "draft_lengths": {"0": 1, "2": 2},
    "undrafted": {"prompt": 1},
}  # fmt: skip


def round_chunk(tokens: list[tuple[int, str, str]], drafted: int, **delta: str) -> dict[str, Any]:
    """A chunk of one round."""
    accepted = sum(origin != "target" for _, _, origin in tokens)
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        "geminate": {
            "choice": 0,
            "drafted": drafted,
            "accepted": min(drafted, accepted),
            "tokens": [{"id": id, "text": text, "origin": origin} for id, text, origin in tokens],
        },
    }


class FakeChat:
    """``mode`` chooses what the next request gets; ``seen`` are the bodies; ``gone`` is set when a client leaves.

    Modes: answer, thinking, differ (the second answer is another one), full (429), failed (500), loading (503),
    error (inside the stream), broken (the connection ends early), nonsense, endless (until the client leaves), text
    (`text`, a few characters a token), prompt (silent until `go` is set).

    Attributes:
        work: what ``/ui/work`` answers. times: ``predicted_ms`` of the next answers. deaf: whether nothing is answered.
    """

    def __init__(self) -> None:
        self.mode = "answer"
        self.seen: list[dict[str, Any]] = []
        self.gone = threading.Event()
        self.ready = True
        self.card: dict[str, Any] = dict(CARD)
        self.work: dict[str, Any] = {"running": 1, "waiting": 0, "generated": 0, "prompt": None}
        self.demo: list[dict[str, Any]] | None = None
        self.times: list[float] = []
        self.text = ""
        self.thought = ""
        self.size = 4
        self.delay = self.pause = 0.0
        self.next_generated: Callable[[], int] | None = None
        self.go = threading.Event()
        self.deaf = threading.Event()
        self.app = FastAPI()
        self.app.include_router(page_router())
        self.app.add_api_route("/health/ready", self._ready, response_model=None)
        self.app.add_api_route("/ui/card", self._card, response_model=None)
        self.app.add_api_route("/ui/work", self._work, response_model=None)
        self.app.add_api_route("/demo", self._demo, methods=["POST"], response_model=None)
        self.app.add_api_route("/v1/models", self._models, response_model=None)
        self.app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"], response_model=None)
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> FakeChat:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive(), "the fake server did not start"
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _card(self) -> Response:
        return JSONResponse(self.card)

    async def _work(self) -> Response:
        if self.next_generated is not None:
            self.work["generated"] = self.next_generated()
        return JSONResponse(self.work)

    async def _demo(self) -> Response:
        if self.demo is None:
            return JSONResponse({"error": {"message": "the demo runs on a loopback address only"}}, 403)
        body = b"".join(map(_data, self.demo)) + b"data: [DONE]\n\n"
        return Response(body, media_type="text/event-stream")

    async def _ready(self) -> Response:
        while self.deaf.is_set():
            await asyncio.sleep(0.05)
        if self.ready:
            return JSONResponse({"status": "ready"})
        error = {"message": "the model is being loaded", "type": "service_unavailable_error", "code": "loading"}
        return JSONResponse({"error": error}, 503, {"Retry-After": "5"})

    async def _models(self) -> Response:
        card = {"id": "fake", "max_model_len": 2048, "geminate": {"drafter": None, "weights": "int8"}}
        return JSONResponse({"object": "list", "data": [card]})

    async def _chat(self, request: Request) -> Response:
        self.seen.append(await request.json())
        refusals = {
            "full": (429, "64 requests wait already", {"Retry-After": "7"}),
            "failed": (500, "something went wrong inside the server", {}),
            "loading": (503, "the model is being loaded", {"Retry-After": "5"}),
        }
        if self.mode in refusals:
            status, message, headers = refusals[self.mode]
            return JSONResponse({"error": {"message": message}}, status, headers)
        return StreamingResponse(
            self._events(), media_type="text/event-stream", headers={"X-Request-Id": f"req_{len(self.seen)}"}
        )

    async def _events(self) -> AsyncIterator[bytes]:
        if self.mode == "nonsense":
            yield b"data: {not json\n\n"
            return
        while self.mode == "prompt" and not self.go.is_set():
            await asyncio.sleep(0.02)
        await asyncio.sleep(self.pause)
        timings = {**TIMINGS, "predicted_ms": self.times.pop(0)} if self.times else TIMINGS
        if self.mode == "text":
            async for chunk in self._text():
                yield chunk
            yield _data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "timings": timings})
            yield b"data: [DONE]\n\n"
            return
        if self.mode == "thinking":
            thought = [
                (100, "<|channel>", "target"),
                (7, "thought", "target"),
                (8, "\n", "target"),
                (9, "Hm.", "target"),
            ]
            yield _data(round_chunk(thought, 0, reasoning_content="Hm."))
            yield _data(round_chunk([(101, "<channel|>", "target")], 0))
        words = list(WORDS)
        if self.mode == "differ" and len(self.seen) % 2 == 0:
            words[3] = (99, " moon", "target")
        yield _data(round_chunk(words[:1], 0, role="assistant", content="Once"))
        yield _data(round_chunk(words[1:4], 2, content="".join(text for _, text, _ in words[1:4])))
        if self.mode == "endless":
            try:
                while True:
                    yield _data(round_chunk([(20, " more", "target")], 1, content=" more"))
                    await asyncio.sleep(0.01)
            finally:  # cancelled, or closed at the yield: both only when the client is gone
                self.gone.set()
        if self.mode == "error":
            yield _data({"error": {"message": "the answer took longer than 600 s", "type": "timeout_error"}})
            yield b"data: [DONE]\n\n"
            return
        if self.mode == "broken":
            return
        last = round_chunk(words[4:], 3, content=" the end.")
        last["choices"][0]["finish_reason"] = "stop"
        yield _data({**last, "timings": timings})
        yield _data({"choices": [], "usage": {"completion_tokens": 8}, "timings": timings})
        yield b"data: [DONE]\n\n"

    async def _text(self) -> AsyncIterator[bytes]:
        for kind, whole in (("reasoning_content", self.thought), ("content", self.text)):
            for at in range(0, len(whole), self.size):
                piece = whole[at : at + self.size]
                yield _data(round_chunk([(30, piece, "drafter" if at % 3 else "target")], 1, **{kind: piece}))
                await asyncio.sleep(self.delay)


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
