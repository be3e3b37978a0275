"""``/v1/messages``, ``/v1/messages/count_tokens``, and ``/v1/models`` for Anthropic's clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from geminate.server.anthropic.convert import chat_request
from geminate.server.anthropic.events import MessageEvents
from geminate.server.anthropic.schemas import CountRequest, MessagesRequest, ThinkingOn
from geminate.server.anthropic.tolerated import COUNT, MESSAGES
from geminate.server.http.errors import JsonResponse
from geminate.server.http.logs import context_of
from geminate.server.http.parsing import parse
from geminate.server.openai import models as openai_models
from geminate.server.openai.chat import prepared, start
from geminate.server.openai.generation import until_gone
from geminate.server.openai.sse import EventStream
from geminate.server.state import Model, ServerState

MAX_USER = 256  # characters of metadata.user_id that are logged


async def messages(state: ServerState, request: Request) -> Response:
    """Generate the next message of a conversation, as Anthropic's API does."""
    body = await parse(request, MessagesRequest, state.check_ready, MESSAGES)
    context = context_of(request.scope)
    # max_tokens must be given here, so it is a ceiling: clients ask for more than the memory holds.
    model, generation = await start(state, request, chat_request(body), bounded=False)
    user = (body.metadata or {}).get("user_id")
    if isinstance(user, str):
        context.fields["user"] = user[:MAX_USER]
    thinking = body.thinking
    made = MessageEvents(
        model,
        generation,
        limit=body.max_tokens,
        omitted=isinstance(thinking, ThinkingOn) and thinking.display == "omitted",
        traced=bool(body.trace),
    )
    if body.stream:
        return EventStream(made.encoded(), context, generation.cancel, made.failed, beat=made.beat)
    return JsonResponse(await until_gone(request.receive, made.whole(), generation.cancel))


async def count_tokens(state: ServerState, request: Request) -> Response:
    """Count the tokens of a conversation, tools and instructions included; nothing is generated."""
    body = await parse(request, CountRequest, state.check_ready, COUNT)
    model = state.model(body.model)
    ids, _, _ = await prepared(state, model, request, chat_request(body), constrained=False)
    return JsonResponse({"input_tokens": len(ids)})


async def list_models(state: ServerState, request: Request) -> Response:
    """List the served model; in Anthropic's shape where ``anthropic-version`` is sent."""
    if "anthropic-version" not in request.headers:
        return await openai_models.list_models(state, request)
    cards = [{**_card(model), "id": name} for model in state.ready_models() for name in model.listed]
    return JsonResponse({"data": cards, "has_more": False, "first_id": cards[0]["id"], "last_id": cards[-1]["id"]})


async def get_model(state: ServerState, request: Request) -> Response:
    """Describe the served model, by its id or an alias; in Anthropic's shape where ``anthropic-version`` is sent."""
    if "anthropic-version" not in request.headers:
        return await openai_models.get_model(state, request)
    return JsonResponse(_card(state.model(request.path_params["model"])))


def _card(model: Model) -> dict[str, Any]:
    """The model's entry in ``/v1/models`` for Anthropic's clients."""
    created = datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": model.id, "display_name": model.id, "created_at": created}
