"""``/v1/responses``: request handling and the response object. Nothing is stored on disk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from geminate.server.http.errors import ApiError, JsonResponse, bad_request
from geminate.server.http.logs import context_of
from geminate.server.http.parsing import parse
from geminate.server.openai.conversation import response_messages, tool_functions
from geminate.server.openai.formats import choose_tools, grammar_spec, prompt_and_grammar, thinking_wanted
from geminate.server.openai.generation import Generation, sampling_params, until_gone
from geminate.server.openai.response_events import ResponseEvents
from geminate.server.openai.schemas_responses import Item, ItemReference, NamedFunction, ResponseRequest
from geminate.server.openai.sse import EventStream
from geminate.server.openai.tolerated import RESPONSE
from geminate.server.state import Model, ServerState

_ITEM: TypeAdapter[Item] = TypeAdapter(Item)
LOGPROBS = "message.output_text.logprobs"


async def responses(state: ServerState, request: Request) -> Response:
    """Generate a response to a text or a list of input items; nothing is stored on disk."""
    body = await parse(request, ResponseRequest, state.check_ready, RESPONSE)
    model = state.model(body.model)
    context = context_of(request.scope)
    _check_combinations(body)
    logprobs = _wants_logprobs(body)
    thinking = thinking_wanted(body.reasoning.effort if body.reasoning else None, None, "reasoning.effort")
    params = sampling_params(
        body,
        model,
        max_tokens=body.max_output_tokens or state.settings.max_tokens,
        logprobs=(body.top_logprobs or 0) if logprobs else None,
    )
    choice = body.tool_choice
    named = choice.name if isinstance(choice, NamedFunction) else None
    tools = choose_tools(
        tool_functions(body.tools), choice if isinstance(choice, str) else None, named, body.parallel_tool_calls
    )
    spec = grammar_spec(body.text.format if body.text else None, tools)
    messages = response_messages(body.instructions, _resolved(body.input, partial(state.items.find, context.client)))
    if not messages:
        raise bad_request("input contains no message", "input")
    prompt, grammar = await prompt_and_grammar(
        state,
        model,
        context,
        messages,
        tools,
        spec,
        request.receive,
        thinking=thinking,
        messages_field="input",
        format_field="text.format",
    )
    if body.safety_identifier is not None:
        context.fields["safety_identifier"] = body.safety_identifier
    generation = Generation(
        state,
        model,
        context,
        prompts=[prompt],
        params=params,
        n=1,
        body=body,
        grammar=grammar,
        bounded=body.max_output_tokens is not None,
        reply="tools" if tools.offered else "chat",
    )
    frame = Frame(model, generation, body, partial(state.items.keep, context.client))
    made = ResponseEvents(model, generation, frame, logprobs=logprobs, traced=bool(body.trace))
    if body.stream:
        return EventStream(made.encoded(), context, generation.cancel, made.failed)
    return JsonResponse(await until_gone(request.receive, made.whole(), generation.cancel))


def _resolved(items: str | Sequence[Item], find: Callable[[str], bytes | None]) -> str | list[Item]:
    """An input whose references are replaced by the items they name.

    Raises:
        ApiError: 400 for one that is not kept.
    """
    if isinstance(items, str):
        return items
    made: list[Item] = []
    for index, item in enumerate(items):
        if isinstance(item, ItemReference):
            data = find(item.id)
            if data is None:
                raise bad_request(
                    f"input[{index}]: item {item.id[:100]!r} is not kept here; send the item itself instead of an "
                    "item_reference (AI SDK: providerOptions.openai.store = false, or the provider's .chat(model))",
                    f"input[{index}].id",
                )
            item = _ITEM.validate_json(data)
        made.append(item)
    return made


def _wants_logprobs(body: ResponseRequest) -> bool:
    return LOGPROBS in (body.include or ())


def _check_combinations(body: ResponseRequest) -> None:
    if body.top_logprobs and not _wants_logprobs(body):
        raise bad_request(f"top_logprobs needs include: [{LOGPROBS!r}]", "top_logprobs")
    if body.stream_options is not None:
        if not body.stream:
            raise bad_request("stream_options needs stream: true", "stream_options")
        if body.stream_options.include_usage is not None:
            raise bad_request("the last event of a response always has the usage", "stream_options.include_usage")


class Frame:
    """The response object around the output; it echoes the request's fields.

    Args:
        keep: called with the output items of a response that has ended, unless the request says ``store: false``.
    """

    def __init__(
        self,
        model: Model,
        generation: Generation,
        body: ResponseRequest,
        keep: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self.generation = generation
        self._keep = None if body.store is False else keep
        sampling = generation.streams[0].request.sampling
        effort = body.reasoning.effort if body.reasoning else None
        plain: dict[str, Any] = body.model_dump(mode="json", by_alias=True, exclude_none=True)
        text = plain.get("text", {})
        self._fixed: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": model.id,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": plain.get("tool_choice", "auto"),
            "tools": [{"strict": False, **tool} for tool in plain.get("tools", [])],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "user": body.user,
        }

    def object(self, status: str, output: list[dict[str, Any]], *, error: ApiError | None = None) -> dict[str, Any]:
        """The response object with this output; it has the usage once the response has ended."""
        made = {
            **self._fixed,
            "status": status,
            "output": output,
            "error": None if error is None else {"code": error.code or "server_error", "message": error.message},
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": None,
        }
        if status in ("completed", "incomplete"):
            usage = self.generation.usage()
            made["completed_at"] = int(time.time())
            made["usage"] = {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            }
            made["timings"] = self.generation.timings()
            if self._keep is not None:
                self._keep(output)
        return made
