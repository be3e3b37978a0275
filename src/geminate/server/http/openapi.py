"""The OpenAPI document: what routes take and answer, errors included, as they really are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from geminate import __version__
from geminate.server.openai import schemas_chat as chat
from geminate.server.openai import schemas_out as out
from geminate.server.openai.schemas_responses import ResponseRequest

Mode = Literal["validation", "serialization"]
_ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "The server needs an API key.",
    403: "The Host header names another machine.",
    404: "There is no such model or route.",
    413: "The body is too large.",
    429: "Too many requests are waiting.",
    503: "The model is being loaded, or the server is shutting down.",
    504: "The request took longer than it may.",
}


@dataclass(frozen=True, kw_only=True)
class Doc:
    """What the document says about a route."""

    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    statuses: tuple[int, ...] = ()
    stream: str | None = None
    text: str | None = None

    @property
    def models(self) -> list[tuple[type[BaseModel], Mode]]:
        """(model, mode) for the schemas."""
        made: list[tuple[type[BaseModel], Mode]] = []
        if self.body is not None:
            made.append((self.body, "validation"))
        if self.answer is not None:
            made.append((self.answer, "serialization"))
        return made


_ERROR_BODY: tuple[type[BaseModel], Mode] = (out.ErrorBody, "serialization")
_POST = (400, 401, 404, 413, 503)
_RUN = (400, 401, 404, 413, 429, 503, 504)
DOCS: dict[str, Doc] = {
    "/v1/chat/completions": Doc(
        body=chat.ChatRequest, answer=out.ChatCompletion, statuses=_RUN, stream="chat.completion.chunk objects"
    ),
    "/v1/completions": Doc(
        body=chat.CompletionRequest, answer=out.Completion, statuses=_RUN, stream="text_completion objects"
    ),
    "/v1/responses": Doc(body=ResponseRequest, answer=out.ResponseObject, statuses=_RUN, stream="named events"),
    "/v1/models": Doc(answer=out.ModelList, statuses=(401, 503)),
    "/v1/models/{model}": Doc(answer=out.ModelCard, statuses=(401, 404, 503)),
    "/tokenize": Doc(body=chat.TokenizeRequest, answer=out.Tokens, statuses=_POST),
    "/detokenize": Doc(body=chat.DetokenizeRequest, answer=out.DetokenizedText, statuses=_POST),
    "/health/live": Doc(answer=out.Health),
    "/health/ready": Doc(answer=out.Health, statuses=(401, 503)),
    "/metrics": Doc(answer=None, statuses=(401,), text="text/plain"),
}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _responses(doc: Doc, *, keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if doc.answer is not None:
        content["application/json"] = {"schema": _ref(doc.answer)}
    if doc.text is not None:
        content[doc.text] = {"schema": {"type": "string"}}
    if doc.stream is not None:
        content["text/event-stream"] = {}  # OpenAPI 3.1 has no words for the events of a stream
    error = {"application/json": {"schema": _ref(out.ErrorBody)}}
    success = "Success." if doc.stream is None else f"Success; with `stream`, server-sent events: {doc.stream}."
    made: dict[str, Any] = {"200": {"description": success, "content": content}}
    for status in doc.statuses:
        if status == 401 and not keys:
            status = 403  # what guards a server without keys
        made[str(status)] = {"description": _ERRORS[status], "content": error}
        if status in (429, 503):
            made[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
    return made


def document(app: Any, *, keys: bool) -> dict[str, Any]:
    """The document of an app's routes."""
    routes = [route for route in app.routes if getattr(route, "path_format", None) in DOCS]
    made = get_openapi(
        title="Geminate", version=__version__, routes=routes,
        description="Gemma 4 with its MTP drafter: OpenAI's API, the same answers with speculation on or off.",
    )  # fmt: skip
    models = {pair for doc in DOCS.values() for pair in (*doc.models, _ERROR_BODY)}
    ordered = sorted(models, key=lambda pair: pair[0].__name__)
    _, schemas = models_json_schema(ordered, ref_template="#/components/schemas/{model}")
    made["components"] = {"schemas": schemas["$defs"]}
    for path, methods in made["paths"].items():
        doc = DOCS[path]
        for operation in methods.values():
            operation["responses"] = _responses(doc, keys=keys)
            if doc.body is not None:
                operation["requestBody"] = {
                    "required": True, "content": {"application/json": {"schema": _ref(doc.body)}},
                }  # fmt: skip
            if keys and path != "/health/live":
                operation["security"] = [{"key": []}]
    if keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return made
