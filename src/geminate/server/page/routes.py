"""The web page at ``/``: static files from the package, nothing from other hosts.

The files are read once, when the router is created; a request gets one of them or 404, so no path reaches the disk.
They contain no secrets and need no API key; the page's API requests do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
# No inline scripts or styles, no other hosts: model output shown on the page cannot run or load anything.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A static file; ``etag`` is the hash of its content."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """The page's files by path below ``static``; ``index.html`` is served at ``/``."""
    made = {}
    static = files("geminate.server.page").joinpath("static")
    for prefix, folder in (("", static), ("vendor/", static.joinpath("vendor"))):
        for entry in folder.iterdir():
            suffix = "." + entry.name.rpartition(".")[2]
            if entry.is_file() and suffix in _TYPES:
                content = entry.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                made[prefix + entry.name] = PageFile(content, _TYPES[suffix], etag)
    return made


def page_router() -> APIRouter:
    """Routes ``/`` and ``/page/{file}``, for GET and HEAD, outside the OpenAPI document."""
    known = page_files()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return _respond(request, known["index.html"])

    @router.api_route("/page/{file:path}", methods=["GET", "HEAD"])
    async def static(request: Request, file: str) -> Response:
        found = known.get(file)
        if found is None:
            return Response("File not found.\n", status_code=404, media_type="text/plain", headers=_HEADERS)
        return _respond(request, found)

    return router


def _respond(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    held = request.headers.get("if-none-match", "")
    if held.strip() == "*" or file.etag in (tag.strip().removeprefix("W/") for tag in held.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
