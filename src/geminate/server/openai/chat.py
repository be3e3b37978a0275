"""``/v1/chat/completions``."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from geminate.grammar.compiler import Grammar
from geminate.server.chunks import Chunk
from geminate.server.http.errors import JsonResponse, bad_request
from geminate.server.http.logs import context_of
from geminate.server.http.parsing import parse
from geminate.server.openai.choice import Choice
from geminate.server.openai.conversation import chat_messages, tool_functions
from geminate.server.openai.formats import Tools, choose_tools, grammar_spec, prompt_and_grammar, thinking_wanted
from geminate.server.openai.generation import Generation, sampling_params, until_gone
from geminate.server.openai.schemas_chat import ChatRequest, NamedChoice
from geminate.server.openai.sse import EventStream, chunks
from geminate.server.openai.tokens import chat_logprobs, prompt_progress, trace
from geminate.server.openai.tolerated import CHAT
from geminate.server.state import Model, ServerState


async def chat(state: ServerState, request: Request) -> Response:
    """Generate the next assistant message of a conversation."""
    body = await parse(request, ChatRequest, state.check_ready, CHAT)
    progress = bool(body.stream and (body.trace or body.return_progress))
    model, generation = await start(state, request, body, progress=progress)
    made = ChatResult(model, generation, body)
    if body.stream:
        return EventStream(made.events(), generation.context, generation.cancel)
    return JsonResponse(await until_gone(request.receive, made.whole(), generation.cancel))


async def start(
    state: ServerState, request: Request, body: ChatRequest, *, bounded: bool | None = None, progress: bool = False
) -> tuple[Model, Generation]:
    """Queue a chat request; requests of other APIs come here in the form of a `ChatRequest`.

    Args:
        bounded: see `Generation`; None: whether the body has a token limit. progress: see `Generation`.

    Raises:
        ApiError: as `Generation`, or the request is refused. ClientGone: the client closed the connection.
    """
    model = state.model(body.model)
    context = context_of(request.scope)
    _check_combinations(body)
    n = state.choices(body.n or 1, "n")
    limit = _token_limit(body)
    params = sampling_params(
        body,
        model,
        max_tokens=limit or state.settings.max_tokens,
        stop=body.stop,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    prompt, grammar, tools = await prepared(state, model, request, body)
    if body.safety_identifier is not None:
        context.fields["safety_identifier"] = body.safety_identifier
    generation = Generation(
        state,
        model,
        context,
        prompts=[prompt],
        params=params,
        n=n,
        body=body,
        grammar=grammar,
        bounded=limit is not None if bounded is None else bounded,
        reply="tools" if tools.offered else "chat",
        progress=progress,
    )
    return model, generation


async def prepared(
    state: ServerState, model: Model, request: Request, body: ChatRequest, *, constrained: bool = True
) -> tuple[list[int], Grammar | None, Tools]:
    """Token ids of the prompt, the grammar of the completion (None unless ``constrained``), the tools that are offered.

    Raises:
        ApiError: the request is refused. ClientGone: the client closed the connection.
    """
    switch = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs else None
    thinking = thinking_wanted(body.reasoning_effort, switch, "reasoning_effort")
    choice = body.tool_choice
    named = choice.function.name if isinstance(choice, NamedChoice) else None
    tools = choose_tools(
        tool_functions(body.tools), choice if isinstance(choice, str) else None, named, body.parallel_tool_calls
    )
    spec = grammar_spec(body.response_format, tools) if constrained else None
    prompt, grammar = await prompt_and_grammar(
        state,
        model,
        context_of(request.scope),
        chat_messages(body.messages),
        tools,
        spec,
        request.receive,
        thinking=thinking,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        messages_field="messages",
        format_field="response_format",
    )
    return prompt, grammar, tools


def _check_combinations(body: ChatRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")
    if body.continue_final_message:
        if body.add_generation_prompt:
            raise bad_request(
                "continue_final_message and add_generation_prompt: true exclude each other; set one of them",
                "continue_final_message",
            )
        if body.response_format is not None and body.response_format.type != "text":
            raise bad_request(
                "a response format cannot be combined with a begun answer: it would hold for what follows alone; "
                "remove the format, or the assistant message at the end",
                "response_format",
            )
        if body.messages[-1].role != "assistant":
            raise bad_request(
                f"continue_final_message needs an assistant message at the end, not one of {body.messages[-1].role!r}",
                "continue_final_message",
            )


def _token_limit(body: ChatRequest) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        if body.max_tokens != body.max_completion_tokens:
            raise bad_request("max_tokens and max_completion_tokens differ; set only one of them", "max_tokens")
    return body.max_completion_tokens or body.max_tokens


class ChatResult:
    """Turns chunks into a ``chat.completion``, whole or streamed."""

    def __init__(self, model: Model, generation: Generation, body: ChatRequest) -> None:
        self.model, self.generation = model, generation
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.logprobs, self.trace = bool(body.logprobs), bool(body.trace)
        self.usage = bool(body.stream_options and body.stream_options.include_usage)
        self.choices = [Choice() for _ in range(generation.n)]
        self._open = generation.n

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.id,
            "system_fingerprint": self.model.fingerprint,
        }

    async def whole(self) -> dict[str, Any]:
        """The body of a response that is not streamed."""
        logprobs: list[list[dict[str, Any]]] = [[] for _ in self.choices]
        rounds: list[dict[str, Any]] = []
        async with aclosing(self.generation.batches()) as batches:
            async for batch in batches:
                for choice, chunk in batch:
                    self._take(choice, chunk)
                    if self.logprobs:
                        logprobs[choice].extend(chat_logprobs(self.model, chunk.tokens))
                    if self.trace:
                        rounds.append(trace(choice, chunk))
        choices = [
            {
                "index": index,
                "message": state.message(),
                "logprobs": {"content": logprobs[index], "refusal": None} if self.logprobs else None,
                "finish_reason": state.finish_reason,
            }
            for index, state in enumerate(self.choices)
        ]
        made = self._head("chat.completion") | {"choices": choices} | self._totals()
        if self.trace:
            made["geminate"] = {"seed": self.generation.seed, "rounds": rounds}
        return made

    def _totals(self) -> dict[str, Any]:
        return {"usage": self.generation.usage(), "timings": self.generation.timings()}

    def _take(self, choice: int, chunk: Chunk) -> dict[str, Any]:
        state = self.choices[choice]
        delta = state.take(chunk)
        if chunk.finish_reason is not None:
            self._open -= 1
            assert state.finish_reason is not None
            self.generation.ended(choice, state.finish_reason)
        return delta

    def events(self) -> AsyncGenerator[bytes, None]:
        """Encoded chunks, as many at once as are available."""
        # Only the choice differs between the chunks of a response.
        head = b"data: " + json.dumps(self._head("chat.completion.chunk"), separators=(",", ":"))[:-1].encode("ascii")
        tail = b',"usage":null}\n\n' if self.usage else b"}\n\n"

        def last() -> dict[str, Any]:
            return self._head("chat.completion.chunk") | {"choices": []} | self._totals()

        return chunks(self.generation, partial(self._chunk, head, tail), last if self.usage else None)

    def _chunk(self, head: bytes, tail: bytes, choice: int, chunk: Chunk) -> bytes:
        progress = prompt_progress(choice, chunk, traced=self.trace)
        if progress is not None:
            empty = {"index": choice, "delta": {}, "logprobs": None, "finish_reason": None}
            return head + b"," + json.dumps({"choices": [empty], **progress})[1:-1].encode("ascii") + tail
        first = not self.choices[choice].begun
        delta = self._take(choice, chunk)
        if not (delta or chunk.finish_reason or self.trace or self.logprobs):
            return b""  # bytes of an incomplete character, or a special token
        if first:
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        logprobs = {"content": chat_logprobs(self.model, chunk.tokens), "refusal": None} if self.logprobs else None
        reason = self.choices[choice].finish_reason
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        self.choices[choice].begun = True
        more = {"choices": [entry], **self.generation.extras(choice, chunk, last=self._open == 0)}
        return head + b"," + json.dumps(more, separators=(",", ":"))[1:-1].encode("ascii") + tail
