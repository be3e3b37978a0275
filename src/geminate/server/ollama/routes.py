"""The routes of Ollama's API that answer."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from geminate import __version__
from geminate.server.http.errors import JsonResponse, bad_request
from geminate.server.http.logs import context_of
from geminate.server.http.parsing import parse
from geminate.server.ollama.convert import chat_request, continuation, known_name, question
from geminate.server.ollama.facts import running, shown, tag
from geminate.server.ollama.lines import NDJSON, Lines, encoded, now, said
from geminate.server.ollama.schemas import GenerateRequest, OllamaChatRequest, OllamaRequest, ShowRequest
from geminate.server.ollama.tolerated import CHAT, GENERATE, SHOW
from geminate.server.openai import chat as openai_chat
from geminate.server.openai import completions as openai_completions
from geminate.server.openai.generation import Generation, until_gone
from geminate.server.openai.sse import EventStream
from geminate.server.state import Model, ServerState

_REFUSED = {
    "pull": "this server serves the model it was started with; fetch another one with `geminate serve MODEL`",
    "push": "models are not published from here",
    "create": "this server serves the model it was started with; see `geminate quantize` and `geminate train`",
    "copy": "a second name for the model is given with `geminate serve --alias NAME`",
    "delete": "this server deletes no models; stop it and delete the model's files",
    "embed": "this server makes no embeddings; use an embedding model on another server",
    "embeddings": "this server makes no embeddings; use an embedding model on another server",
    "blobs": "models are not uploaded; start `geminate serve` with the model's path",
}


# num_predict is a ceiling in Ollama: where the context ends earlier, so does the answer.
async def chat(state: ServerState, request: Request) -> Response:
    """Generate the next message of a conversation, as Ollama does."""
    body = await parse(request, OllamaChatRequest, state.check_ready, CHAT, any_type=True)
    state.check_ready()
    name = known_name(state, body.model)
    if not body.messages:
        return _loaded(state, body, name, chat=True)
    model, generation = await openai_chat.start(state, request, chat_request(body, name), bounded=False)
    return await _answer(request, model, generation, body, chat=True)


async def generate(state: ServerState, request: Request) -> Response:
    """Answer a question, or with ``raw`` continue a text, as Ollama does."""
    body = await parse(request, GenerateRequest, state.check_ready, GENERATE, any_type=True)
    state.check_ready()
    name = known_name(state, body.model)
    if not body.prompt and not body.system:
        return _loaded(state, body, name, chat=False)
    if body.raw:
        text = continuation(body, name, state.settings.max_tokens)
        made = await openai_completions.start(state, request, text, bounded=False)
        model, generation = made.model, made.generation
    else:
        model, generation = await openai_chat.start(state, request, question(body, name), bounded=False)
    return await _answer(request, model, generation, body, chat=False)


def _loaded(state: ServerState, body: OllamaRequest, name: str, *, chat: bool) -> Response:
    """The answer to a request without a question, which asks Ollama to load the model, or to unload it."""
    state.model(name)
    line = {"model": body.model, "created_at": now(), **said(chat, "", "", []), "done": True, "done_reason": "load"}
    return Response(encoded(line), media_type="application/json")


async def _answer(
    request: Request, model: Model, generation: Generation, body: OllamaRequest, *, chat: bool
) -> Response:
    context = context_of(request.scope)
    made = Lines(
        model,
        generation,
        name=body.model,
        chat=chat,
        began=context.began,
        logprobs=bool(body.logprobs),
        traced=bool(body.trace),
    )
    if body.stream is not False:
        return EventStream(made.encoded(), context, generation.cancel, made.failed, NDJSON, made.beat)
    return JsonResponse(await until_gone(request.receive, made.whole(), generation.cancel))


async def tags(state: ServerState, request: Request) -> Response:
    """List the served models, as Ollama does."""
    return JsonResponse({"models": [tag(model) for model in state.ready_models()]})


async def ps(state: ServerState, request: Request) -> Response:
    """List the loaded models, as Ollama does."""
    return JsonResponse({"models": [running(model) for model in state.ready_models()]})


async def show(state: ServerState, request: Request) -> Response:
    """Describe the served model, as Ollama does."""
    body = await parse(request, ShowRequest, state.check_ready, SHOW, any_type=True)
    name = body.model or body.name
    if name is None:
        raise bad_request("model is missing", "model", "missing_field")
    state.check_ready()
    model = state.model(known_name(state, name))
    return JsonResponse(shown(model))


async def version(state: ServerState, request: Request) -> Response:
    """Geminate's version, where Ollama's clients ask for Ollama's."""
    return JsonResponse({"version": __version__})


async def refused(state: ServerState, request: Request) -> Response:
    """Say what to do instead of what Ollama would do with models."""
    name: Any = request.url.path.removeprefix("/api/").split("/", 1)[0]
    raise bad_request(f"/api/{name} is not supported: {_REFUSED[name]}", code="not_supported")
