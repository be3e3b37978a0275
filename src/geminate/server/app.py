"""The ASGI application: routes, middleware, error handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from geminate.engine.service import EngineService
from geminate.errors import GeminateError
from geminate.llm import LLM
from geminate.server.anthropic import routes as anthropic
from geminate.server.audit import AuditMiddleware
from geminate.server.http.auth import AuthMiddleware, Keys
from geminate.server.http.errors import (
    DRAIN_RETRY_AFTER_S,
    ApiError,
    JsonResponse,
    from_geminate,
    internal,
    unavailable,
)
from geminate.server.http.limits import BodyLimitMiddleware
from geminate.server.http.logs import ContextMiddleware, context_of
from geminate.server.http.parsing import ClientGone
from geminate.server.http.unknown import unknown_route
from geminate.server.ollama import routes as ollama
from geminate.server.openai.chat import chat
from geminate.server.openai.completions import completions
from geminate.server.openai.docs_page import HEADERS, docs_page
from geminate.server.openai.models import detokenize, tokenize
from geminate.server.openai.responses import responses
from geminate.server.openapi import document
from geminate.server.page.demo import demo_router
from geminate.server.page.facts import facts_router
from geminate.server.page.routes import page_router
from geminate.server.settings import Settings
from geminate.server.state import ServerState

_OLLAMA_ONLY = ("pull", "push", "create", "copy", "delete", "embed", "embeddings", "blobs/{digest}")
Handler = Callable[[ServerState, Request], Awaitable[Response]]
_ROUTES: list[tuple[str, str, Handler, str]] = [
    ("POST", "/v1/chat/completions", chat, "Create a chat completion"),
    ("POST", "/v1/completions", completions, "Create a text completion"),
    ("POST", "/v1/responses", responses, "Create a response; nothing is stored on disk"),
    ("POST", "/v1/messages", anthropic.messages, "Create a message (Anthropic)"),
    ("POST", "/v1/messages/count_tokens", anthropic.count_tokens, "Count the tokens of a conversation (Anthropic)"),
    ("POST", "/api/chat", ollama.chat, "Create a chat message (Ollama)"),
    ("POST", "/api/generate", ollama.generate, "Answer a question or continue a text (Ollama)"),
    ("GET", "/api/tags", ollama.tags, "List the served model (Ollama)"),
    ("GET", "/api/ps", ollama.ps, "List the loaded model (Ollama)"),
    ("POST", "/api/show", ollama.show, "Describe the served model (Ollama)"),
    ("GET", "/api/version", ollama.version, "Geminate's version (Ollama)"),
    ("GET", "/v1/models", anthropic.list_models, "List the served model"),
    ("GET", "/v1/models/{model:path}", anthropic.get_model, "Describe the served model"),
    ("POST", "/tokenize", tokenize, "Tokenize a text or a conversation"),
    ("POST", "/detokenize", detokenize, "Convert token ids to text"),
]


def create_app(
    llm: LLM | None, service: EngineService | None, settings: Settings, *, keys: list[str] | None = None
) -> ASGIApp:
    """The application for a service that is already started; with `make_app` the model is attached later."""
    state = ServerState(settings)
    if llm is not None and service is not None:
        state.attach(llm, service)
    return make_app(state, Keys(keys or ()))


def make_app(state: ServerState, keys: Keys) -> ASGIApp:
    """The application for a server state; routes return 503 until a model is attached to it."""
    app = FastAPI(title="Geminate", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for method, path, handler, summary in _ROUTES:
        app.add_api_route(
            path,
            partial(handler, state),
            methods=[method],
            summary=summary,
            description=handler.__doc__ or "",
            response_model=None,
            name=handler.__name__,
        )
    for name in _OLLAMA_ONLY:
        handle = partial(ollama.refused, state)
        methods = ["GET", "POST", "DELETE"]
        app.add_api_route(f"/api/{name}", handle, methods=methods, include_in_schema=False, response_model=None)
    _add_operations(app, state)
    _add_documents(app, keys)

    for route in list(app.routes):  # uvicorn leaves out the body
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
    if state.settings.page:
        app.include_router(demo_router(state.settings, bool(keys)))
        app.include_router(page_router())
        app.include_router(facts_router(state))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(GeminateError, _geminate_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(Exception, _unexpected)
    inner: ASGIApp = BodyLimitMiddleware(app, state.settings.max_body_bytes)
    if state.audit is not None:
        inner = AuditMiddleware(inner, state.audit)
    inner = AuthMiddleware(inner, keys, state.settings)
    if state.settings.cors_origin:
        inner = CORSMiddleware(
            inner,
            allow_origins=state.settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Request-Id", "Retry-After", "X-Geminate-Ignored"],
        )
    return ContextMiddleware(inner, state.metrics.http, state.settings)


def _add_documents(app: FastAPI, keys: Keys) -> None:
    @cache
    def made() -> dict[str, Any]:
        return document(app, keys=bool(keys))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JsonResponse:
        return JsonResponse(made())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(docs_page(made()), media_type="text/html; charset=utf-8", headers=HEADERS)


def _add_operations(app: FastAPI, state: ServerState) -> None:
    @app.get("/health/live", summary="Liveness: the process is running")
    async def live() -> Response:
        if state.failed:
            raise unavailable("the engine has failed; restart the server", "failed", DRAIN_RETRY_AFTER_S)
        return JsonResponse({"status": "live"})

    @app.get("/health", summary="The same as /health/ready")
    @app.get("/health/ready", summary="Readiness: requests are accepted")
    async def ready() -> Response:
        state.check_ready()
        notes = [note for model in state.models if (note := model.acceptance.note) is not None]
        return JsonResponse({"status": "ready", **({"notes": notes} if notes else {})})

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    context_of(request.scope).fields["error"] = error.code or error.param or error.type
    return error.response()


async def _geminate_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GeminateError)
    return await _api_error(request, from_geminate(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, message = request.url.path[:200], str(error.detail)
    code: str | None = None
    if error.status_code == 404:
        code = "not_found"
        message = unknown_route(request.url.path, request.method, request.app.routes)
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{path} does not support {request.method[:20]}; use {allowed}"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _unexpected(request: Request, error: Exception) -> Response:
    return internal(context_of(request.scope).id).response()
