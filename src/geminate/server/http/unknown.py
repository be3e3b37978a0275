"""404: what a client may have meant by a route that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.routing import Route

# First parts of routes of other servers, in words: what this one does not have.
_ABSENT = {
    "embeddings": "embeddings",
    "embed": "embeddings",
    "rerank": "reranking",
    "score": "scoring",
    "images": "images",
    "audio": "audio",
    "moderations": "moderation",
    "files": "stored files",
    "uploads": "stored files",
    "batches": "batches",
    "fine_tuning": "fine-tuning",
    "assistants": "assistants",
    "threads": "stored conversations",
    "conversations": "stored conversations",
    "vector_stores": "vector stores",
    "realtime": "realtime sessions",
}


def unknown_route(path: str, method: str, routes: Iterable[object]) -> str:
    """The message for a path that no route has: the route that was meant if one can be told, and all that exist."""
    known = [route for route in routes if isinstance(route, Route)]
    listed = list(dict.fromkeys(route.path_format for route in known if route.include_in_schema))
    shown = path[:200]

    def exists(candidate: str) -> bool:
        return any(route.path_regex.match(candidate) and method in (route.methods or ()) for route in known)

    hint = ""
    plain = "/" + "/".join(part for part in path.split("/") if part)
    short = re.sub(r"^(/v1)+(?=/|$)", "", plain)
    if plain != path and exists(plain):
        hint = f"; write it as {plain[:200]}, without an extra slash"
    elif path.startswith("/v1/v1/") and exists("/v1" + short):
        hint = f"; the base URL ends with one /v1, so the route is {('/v1' + short)[:200]}"
    elif not path.startswith("/v1/") and exists("/v1" + short):
        hint = f"; clients of this API need a base URL that ends with /v1, so the route is {('/v1' + short)[:200]}"
    elif path.startswith("/v1/") and exists(short):
        hint = f"; the route is {short[:200]}, without /v1"
    elif short == "/responses/input_tokens":
        hint = "; /tokenize with messages, or /v1/messages/count_tokens, counts the tokens of a conversation"
    elif short.count("/") > 1 and short.startswith(("/responses/", "/chat/completions/")):
        hint = "; nothing is stored, so earlier responses cannot be read, continued or deleted"
    elif (word := short.removeprefix("/").partition("/")[0]) in _ABSENT:
        hint = f"; this server has no {_ABSENT[word]}: it generates text"
    return f"unknown route {shown}{hint}; routes: {', '.join(listed)} (see /docs or /openapi.json)"
