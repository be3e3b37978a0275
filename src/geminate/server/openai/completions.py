"""``/v1/completions``."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from geminate.server.chunks import Chunk
from geminate.server.http.errors import JsonResponse, bad_request
from geminate.server.http.logs import context_of
from geminate.server.http.parsing import parse
from geminate.server.openai.generation import INLINE_CHARS, Generation, in_thread, sampling_params, until_gone
from geminate.server.openai.schemas_chat import CompletionRequest
from geminate.server.openai.sse import EventStream, chunks
from geminate.server.openai.tokens import CompletionLogprobs, prompt_progress, trace
from geminate.server.openai.tolerated import COMPLETION
from geminate.server.state import Model, ServerState

DEFAULT_MAX_TOKENS = 16


async def completions(state: ServerState, request: Request) -> Response:
    """Generate completions of one or more prompts."""
    body = await parse(request, CompletionRequest, state.check_ready, COMPLETION)
    made = await start(state, request, body, progress=bool(body.stream and (body.trace or body.return_progress)))
    if body.stream:
        return EventStream(made.events(), made.generation.context, made.generation.cancel)
    return JsonResponse(await until_gone(request.receive, made.whole(), made.generation.cancel))


async def start(
    state: ServerState,
    request: Request,
    body: CompletionRequest,
    *,
    bounded: bool | None = None,
    progress: bool = False,
) -> CompletionResult:
    """Queue a completion request.

    Args:
        bounded, progress: see `Generation`; bounded None: whether the body has a token limit.

    Raises:
        ApiError: as `Generation`, or the request is refused.
    """
    model = state.model(body.model)
    context = context_of(request.scope)
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")
    prompts = _as_list(body.prompt)
    n = body.n or 1
    state.choices(n * len(prompts), "n" if n > 1 else "prompt")
    if body.max_tokens == 0 and not body.echo:
        raise bad_request("max_tokens must be at least 1; 0 needs echo: true", "max_tokens")
    # With 0 one token is drawn and left out: the engine has no requests without a completion.
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else max(1, body.max_tokens)
    params = sampling_params(body, model, max_tokens=limit, stop=body.stop, logprobs=body.logprobs)
    for prompt in prompts:
        if isinstance(prompt, str):
            model.check_length(len(prompt), "prompt")
    heavy = sum(map(len, prompts)) > INLINE_CHARS
    ids = await in_thread(heavy, lambda: [model.llm.encode(prompt) for prompt in prompts], param="prompt")
    if state.settings.log_prompts:
        context.fields["prompts"] = prompts
    generation = Generation(
        state,
        model,
        context,
        prompts=ids,
        params=params,
        n=n,
        body=body,
        bounded=body.max_tokens is not None if bounded is None else bounded,
        reply="text",
        prompt_logprobs=body.logprobs if body.echo else None,
        progress=progress,
    )
    echoes = await in_thread(heavy, lambda: _echoes(model, prompts, ids, n), param="prompt") if body.echo else None
    return CompletionResult(model, generation, body, n * len(prompts), echoes)


def _as_list(prompt: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [cast(list[int], list(prompt))]
    return list(cast(list[str | list[int]], prompt))


Echo = tuple[str, list[int]]


def _echoes(model: Model, prompts: list[str | list[int]], ids: list[list[int]], n: int) -> list[Echo]:
    """Text and token ids of the prompt of every choice."""
    made: list[Echo] = []
    for prompt, tokens in zip(prompts, ids, strict=True):
        text = prompt if isinstance(prompt, str) else model.tokenizer.decode(tokens, skip_special=True)
        made.extend([(text, tokens)] * n)
    return made


class CompletionResult:
    """Turns chunks into a ``text_completion``, whole or streamed.

    Args:
        echoes: the prompt of every choice, which is put before its completion; None: it is not.
    """

    def __init__(
        self,
        model: Model,
        generation: Generation,
        body: CompletionRequest,
        choices: int,
        echoes: list[Echo] | None = None,
    ) -> None:
        self.model, self.generation = model, generation
        self.trace = bool(body.trace)
        self.usage = bool(body.stream_options and body.stream_options.include_usage)
        self.logprobs = None if body.logprobs is None else [CompletionLogprobs(model) for _ in range(choices)]
        self.choices = choices
        self._open = choices
        self._echoes = dict(enumerate(echoes or ()))
        self._empty = body.max_tokens == 0
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.id,
            "system_fingerprint": model.fingerprint,
        }

    def _take(self, choice: int, chunk: Chunk) -> dict[str, Any]:
        if chunk.finish_reason is not None:
            self._open -= 1
            self.generation.ended(choice, chunk.finish_reason)
        echo = self._echoes.pop(choice, None)
        logprobs = None if self.logprobs is None else self.logprobs[choice]
        parts = [] if echo is None or logprobs is None else [logprobs.prompt(echo[1], chunk.prompt_logprobs)]
        if logprobs is not None:
            parts.append(logprobs.push([] if self._empty else chunk.tokens))
        text = "" if self._empty else "".join(delta.text for delta in chunk.deltas)
        return {
            "index": choice,
            "text": text if echo is None else echo[0] + text,
            "logprobs": {name: [v for part in parts for v in part[name]] for name in parts[0]} if parts else None,
            "finish_reason": "length" if self._empty and chunk.finish_reason else chunk.finish_reason,
        }

    def _usage(self) -> dict[str, Any]:
        usage = self.generation.usage()
        return {**usage, "completion_tokens": 0, "total_tokens": usage["prompt_tokens"]} if self._empty else usage

    async def whole(self) -> dict[str, Any]:
        """The body of a response that is not streamed."""
        made: list[dict[str, Any]] = [
            {"index": i, "text": "", "logprobs": None, "finish_reason": None} for i in range(self.choices)
        ]
        rounds: list[dict[str, Any]] = []
        async with aclosing(self.generation.batches()) as batches:
            async for batch in batches:
                for choice, chunk in batch:
                    part, whole = self._take(choice, chunk), made[choice]
                    whole["text"] += part["text"]
                    whole["finish_reason"] = part["finish_reason"]
                    if whole["logprobs"] is None:
                        whole["logprobs"] = part["logprobs"]
                    elif part["logprobs"] is not None:
                        for name, values in part["logprobs"].items():
                            whole["logprobs"][name].extend(values)
                    if self.trace:
                        rounds.append(trace(choice, chunk))
        body = {
            **self._head,
            "choices": made,
            "usage": self._usage(),
            "timings": self.generation.timings(),
        }
        if self.trace:
            body["geminate"] = {"seed": self.generation.seed, "rounds": rounds}
        return body

    def events(self) -> AsyncGenerator[bytes, None]:
        """Encoded chunks, as many at once as are available."""
        head = b"data: " + json.dumps(self._head, separators=(",", ":"))[:-1].encode("ascii") + b","
        tail = b',"usage":null}\n\n' if self.usage else b"}\n\n"

        def last() -> dict[str, Any]:
            generation = self.generation
            return {**self._head, "choices": [], "usage": self._usage(), "timings": generation.timings()}

        return chunks(self.generation, partial(self._chunk, head, tail), last if self.usage else None)

    def _chunk(self, head: bytes, tail: bytes, choice: int, chunk: Chunk) -> bytes:
        progress = prompt_progress(choice, chunk, traced=self.trace)
        if progress is not None:
            empty = {"index": choice, "text": "", "logprobs": None, "finish_reason": None}
            return head + json.dumps({"choices": [empty], **progress})[1:-1].encode("ascii") + tail
        entry = self._take(choice, chunk)
        if not (entry["text"] or chunk.finish_reason or self.trace or self.logprobs):
            return b""
        more = {"choices": [entry], **self.generation.extras(choice, chunk, last=self._open == 0)}
        return head + json.dumps(more, separators=(",", ":"))[1:-1].encode("ascii") + tail
