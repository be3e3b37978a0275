"""The OpenAPI document, from the schemas the routes actually use, errors included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from geminate import __version__
from geminate.server.anthropic import schemas as messages
from geminate.server.anthropic import schemas_out as messages_out
from geminate.server.ollama import schemas as ollama
from geminate.server.ollama import schemas_out as ollama_out
from geminate.server.openai import schemas_chat as chat
from geminate.server.openai import schemas_out as out
from geminate.server.openai.schemas_responses import ResponseRequest

Mode = Literal["validation", "serialization"]
_ERRORS = {
    400: "Invalid request; `param` names the field.",
    401: "Missing or unknown API key.",
    403: "The Host header does not name this machine.",
    404: "Unknown model or route.",
    413: "The request body is too large.",
    429: "The queue is full.",
    503: "The model is loading, or the server is shutting down.",
    504: "The request exceeded its time limit.",
    529: "The model is loading, or the server is shutting down.",
}


@dataclass(frozen=True, kw_only=True)
class Doc:
    """Request, response and error statuses of one route."""

    response: type[BaseModel] | None
    body: type[BaseModel] | None = None
    statuses: tuple[int, ...] = ()
    stream: str | None = None
    text: str | None = None
    stream_type: str = "text/event-stream"
    error: type[BaseModel] = out.ErrorBody

    @property
    def models(self) -> list[tuple[type[BaseModel], Mode]]:
        """(model, mode) of the schemas this route needs."""
        made: list[tuple[type[BaseModel], Mode]] = []
        if self.body is not None:
            made.append((self.body, "validation"))
        if self.response is not None:
            made.append((self.response, "serialization"))
        made.append((self.error, "serialization"))
        return made


_POST = (400, 401, 404, 413, 503)
_RUN = (400, 401, 404, 413, 429, 503, 504)
DOCS: dict[str, Doc] = {
    "/v1/chat/completions": Doc(
        body=chat.ChatRequest, response=out.ChatCompletion, statuses=_RUN, stream="chat.completion.chunk objects"
    ),
    "/v1/completions": Doc(
        body=chat.CompletionRequest, response=out.Completion, statuses=_RUN, stream="text_completion objects"
    ),
    "/v1/responses": Doc(body=ResponseRequest, response=out.ResponseObject, statuses=_RUN, stream="named events"),
    "/v1/messages": Doc(
        body=messages.MessagesRequest,
        response=messages_out.MessageObject,
        statuses=(400, 401, 404, 413, 429, 504, 529),
        stream="Anthropic's named events",
        error=messages_out.AnthropicErrorBody,
    ),
    "/v1/messages/count_tokens": Doc(
        body=messages.CountRequest,
        response=messages_out.TokenCount,
        statuses=(400, 401, 404, 413, 529),
        error=messages_out.AnthropicErrorBody,
    ),
    "/v1/models": Doc(response=out.ModelList, statuses=(401, 503)),
    "/v1/models/{model}": Doc(response=out.ModelCard, statuses=(401, 404, 503)),
    "/tokenize": Doc(body=chat.TokenizeRequest, response=out.Tokens, statuses=_POST),
    "/detokenize": Doc(body=chat.DetokenizeRequest, response=out.DetokenizedText, statuses=_POST),
    "/health": Doc(response=out.Health, statuses=(401, 503)),
    "/api/chat": Doc(
        body=ollama.OllamaChatRequest,
        response=ollama_out.OllamaChatAnswer,
        statuses=_RUN,
        stream="one JSON object a line",
        stream_type="application/x-ndjson",
        error=ollama_out.OllamaErrorBody,
    ),
    "/api/generate": Doc(
        body=ollama.GenerateRequest,
        response=ollama_out.OllamaText,
        statuses=_RUN,
        stream="one JSON object a line",
        stream_type="application/x-ndjson",
        error=ollama_out.OllamaErrorBody,
    ),
    "/api/tags": Doc(response=ollama_out.OllamaTags, statuses=(401, 503), error=ollama_out.OllamaErrorBody),
    "/api/ps": Doc(response=ollama_out.OllamaProcesses, statuses=(401, 503), error=ollama_out.OllamaErrorBody),
    "/api/show": Doc(
        body=ollama.ShowRequest, response=ollama_out.OllamaModel, statuses=_POST, error=ollama_out.OllamaErrorBody
    ),
    "/api/version": Doc(response=ollama_out.OllamaVersion, statuses=(401,), error=ollama_out.OllamaErrorBody),
    "/health/live": Doc(response=out.Health),
    "/health/ready": Doc(response=out.Health, statuses=(401, 503)),
    "/metrics": Doc(response=None, statuses=(401,), text="text/plain"),
}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _responses(doc: Doc, *, keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if doc.response is not None:
        content["application/json"] = {"schema": _ref(doc.response)}
    if doc.text is not None:
        content[doc.text] = {"schema": {"type": "string"}}
    if doc.stream is not None:
        content[doc.stream_type] = {}  # OpenAPI 3.1 cannot describe the events of a stream
    error = {"application/json": {"schema": _ref(doc.error)}}
    success = "Success."
    if doc.stream is not None:
        kind = "server-sent events" if doc.stream_type == "text/event-stream" else "lines"
        success = f"Success; with `stream`, {kind}: {doc.stream}."
    made: dict[str, Any] = {"200": {"description": success, "content": content}}
    for status in doc.statuses:
        if status == 401 and not keys:
            status = 403  # without keys the Host header is checked instead
        made[str(status)] = {"description": _ERRORS[status], "content": error}
        if status in (429, 503, 529):
            made[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
    return made


def document(app: Any, *, keys: bool) -> dict[str, Any]:
    """The OpenAPI document of an application's routes."""
    routes = [route for route in app.routes if getattr(route, "path_format", None) in DOCS]
    made = get_openapi(
        title="Geminate",
        version=__version__,
        routes=routes,
        description="Gemma 4 with its MTP drafter over OpenAI's API; speculative decoding never changes the output.",
    )
    models = {pair for doc in DOCS.values() for pair in doc.models}
    ordered = sorted(models, key=lambda pair: pair[0].__name__)
    _, schemas = models_json_schema(ordered, ref_template="#/components/schemas/{model}")
    made["components"] = {"schemas": schemas["$defs"]}
    for path, methods in made["paths"].items():
        doc = DOCS[path]
        for operation in methods.values():
            operation["responses"] = _responses(doc, keys=keys)
            if doc.body is not None:
                content = {"application/json": {"schema": _ref(doc.body)}}
                operation["requestBody"] = {"required": True, "content": content}
            if keys and path != "/health/live":
                operation["security"] = [{"key": []}]
    if keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return made
