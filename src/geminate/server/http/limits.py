"""Limits on what a request may be: the size of its body, and one way alone to tell its length."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geminate.server.http.errors import ApiError, bad_request


def two_lengths(scope: Scope) -> bool:
    """Whether a request has both Content-Length and Transfer-Encoding, of which a proxy may believe the other one."""
    return {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}


class BodyLimitMiddleware:
    """413 for a body that is too large, before it is read if Content-Length announces it; 400 for two lengths."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if two_lengths(scope):
            raise bad_request("a request must not have both Content-Length and Transfer-Encoding")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.limit:
                await self._too_large().response()(scope, receive, send)
                return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request body exceeds {self.limit} bytes (max_body_bytes)", code="request_too_large")
