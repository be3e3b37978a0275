"""``/docs``: the OpenAPI document as one plain HTML page, without scripts and without anything from other hosts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any, Final

STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884}"
    "code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}h2{margin-top:2.5rem}"
    "td{overflow-wrap:anywhere}@media(min-width:40rem){td:first-child{white-space:nowrap}}"
)
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def docs_page(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    return "\n".join(_lines(document))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><main>"
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}: API</h1>"
    yield f'<p>{_text(info.get("description", ""))} The same as <a href="openapi.json">openapi.json</a>.</p>'
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from _operation(path, method, operation)
    yield "<h2>Objects</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
        yield from _object(schema)
    yield "</main></body></html>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{_text(operation.get('summary', ''))}.</p>"
    body = operation.get("requestBody", {}).get("content", {})
    for content in body.values():
        yield f"<p>Body: {_type(content['schema'])}</p>"
    yield "<table><tr><th>Status</th><th>Meaning</th><th>Content</th></tr>"
    for status, response in operation["responses"].items():
        kinds = ", ".join(
            f"{escape(kind)}{': ' + _type(content['schema']) if content.get('schema') else ''}"
            for kind, content in response.get("content", {}).items()
        )
        yield f"<tr><td>{escape(status)}</td><td>{_text(response['description'])}</td><td>{kinds}</td></tr>"
    yield "</table>"


def _object(schema: dict[str, Any]) -> Iterator[str]:
    yield f"<p>{_text(schema.get('description', ''))}</p>"
    properties = schema.get("properties")
    if not properties:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", [])
    yield "<table><tr><th>Field</th><th>Type</th><th>Description</th></tr>"
    for name, field in properties.items():
        mark = " (required)" if name in required else ""
        about = _text(field.get("description", ""))
        yield f"<tr><td><code>{escape(name)}</code>{mark}</td><td>{_type(field)}</td><td>{about}</td></tr>"
    yield "</table>"


def _text(text: str) -> str:
    """Text whose backquoted words are code."""
    parts = escape(" ".join(text.replace("``", "`").split())).split("`")
    return "".join(part if i % 2 == 0 else f"<code>{part}</code>" for i, part in enumerate(parts))


def _type(schema: dict[str, Any]) -> str:
    """A schema in words, with links to the objects it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(one) for one in options if one.get("type") != "null")) or "null"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))
