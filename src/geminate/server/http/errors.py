"""HTTP error responses, in the shape of the API whose route was asked.

OpenAI: ``{"error": {"message", "type", "param", "code"}}``; Anthropic: ``{"type": "error", "error": {"type",
"message"}}``; Ollama: ``{"error": "message"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from geminate.errors import (
    ContextLengthError,
    DrainingError,
    EngineFailedError,
    GeminateError,
    ParameterError,
    QueueFullError,
    RequestTimeoutError,
    TokenizerError,
)

RETRY_AFTER_S = 1
ANTHROPIC, OLLAMA = "/v1/messages", "/api/"  # what the paths of these APIs begin with
_OVERLOADED = 529  # Anthropic's status where others send 503
_ANTHROPIC_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 500: "api_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
DRAIN_RETRY_AFTER_S = 10


class ApiError(Exception):
    """An HTTP error response.

    Attributes:
        status: HTTP status. param: the request field that caused it. code: machine-readable error code.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The response body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The error as a response."""
        return _ErrorResponse(self)


class JsonResponse(Response):
    """JSON in ASCII; escapes carry what UTF-8 cannot, such as unpaired surrogates sent by a client."""

    media_type = "application/json"

    def __init__(self, content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
        super().__init__(data, status_code=status, headers=dict(headers or {}))


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """An error in Anthropic's shape; its clients look for "prompt is too long"."""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error")
    long = error.code == "context_length_exceeded"
    message = f"prompt is too long: {error.message}" if long else error.message
    body: dict[str, Any] = {"type": kind, "message": message}
    if error.code == "thread_unsupported_request":
        body["details"] = {"error_code": error.code}
    return {"type": "error", "error": body}


def ollama_error(error: ApiError) -> dict[str, Any]:
    """An error in Ollama's shape."""
    return {"error": error.message}


class _ErrorResponse(JsonResponse):
    """An error in OpenAI's shape; in answer to a request, in that of the API that the request belongs to."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.body(), status=error.status, headers=error.headers)
        self.error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error, path, status = self.error, scope["path"], self.error.status
        theirs = path.startswith("/v1/models") and any(name == b"anthropic-version" for name, _ in scope["headers"])
        if theirs or path == ANTHROPIC or path.startswith(ANTHROPIC + "/"):
            context = scope.get("state", {}).get("context")
            body = anthropic_error(error) | {"request_id": None if context is None else context.id}
            status = _OVERLOADED if status == 503 else status
        elif path.startswith(OLLAMA):
            body = ollama_error(error)
        else:
            await super().__call__(scope, receive, send)
            return
        await JsonResponse(body, status=status, headers=error.headers)(scope, receive, send)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is invalid."""
    return ApiError(400, message, param=param, code=code)


def unauthorized() -> ApiError:
    """401: no API key, or an unknown one."""
    return ApiError(
        401,
        "missing or unknown API key: send 'Authorization: Bearer KEY' (or 'x-api-key: KEY') with a key of this server",
        type="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def wrong_host(host: str) -> ApiError:
    """403: the Host header is not this machine's."""
    host = host[:200]
    return ApiError(
        403,
        f"Host {host!r} is not this machine; behind a proxy, start the server with --allowed-host {host or 'NAME'}; "
        "with API keys any host is accepted",
        type="permission_error",
        code="host_not_allowed",
    )


def wrong_origin(origin: str) -> ApiError:
    """403: the request comes from a web page of another origin."""
    origin = origin[:200]
    return ApiError(
        403,
        f"Origin {origin!r} may not use this server; start it with --cors-origin {origin} to allow that page",
        type="permission_error",
        code="origin_not_allowed",
    )


def unavailable(message: str, code: str, retry_after_s: int) -> ApiError:
    """503; closes the connection so that a load balancer can retry elsewhere."""
    return ApiError(
        503,
        message,
        type="service_unavailable_error",
        code=code,
        headers={"Retry-After": str(retry_after_s), "Connection": "close"},
    )


def internal(request_id: str) -> ApiError:
    """500 for an unexpected exception; the log has the cause."""
    return ApiError(
        500,
        f"internal server error; the server's log has the cause under request id {request_id}",
        type="server_error",
        code="internal_error",
    )


def from_geminate(error: GeminateError, *, fields: Mapping[str, Any] | None = None) -> ApiError:
    """A package error as a response; ``fields`` are the request fields a ParameterError's message may start with."""
    message = str(error)
    if isinstance(error, QueueFullError):
        after = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        return ApiError(429, message, type="rate_limit_error", code="queue_full", headers={"Retry-After": str(after)})
    if isinstance(error, DrainingError):
        return unavailable(message, "draining", DRAIN_RETRY_AFTER_S)
    if isinstance(error, RequestTimeoutError):
        # The official clients would retry, and time out again.
        return ApiError(504, message, type="timeout_error", code="request_timeout", headers={"X-Should-Retry": "false"})
    if isinstance(error, EngineFailedError):
        return ApiError(500, message, type="server_error", code="engine_failed")
    if isinstance(error, ContextLengthError):
        return bad_request(message, code="context_length_exceeded")
    if isinstance(error, (ParameterError, TokenizerError)):
        word = message.split(" ", 1)[0].rstrip(":").split("[", 1)[0].split(".", 1)[0]
        return bad_request(message, param=word if fields and word in fields else None)
    return ApiError(500, message, type="server_error", code="internal_error")
