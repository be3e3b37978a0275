"""The OpenAPI document is true: schemathesis finds no 5xx, no undeclared answer, no bad body that is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.errors import InvalidSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.serving import MODEL, Served

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 60


OPERATIONS = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/api/chat": "POST",
    "/api/generate": "POST",
    "/api/show": "POST",
    "/api/tags": "GET",
    "/api/ps": "GET",
    "/api/version": "GET",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/v1/models": "GET",
    "/v1/models/{model}": "GET",
    "/health": "GET",
    "/health/live": "GET",
    "/health/ready": "GET",
    "/metrics": "GET",
}


@pytest.fixture(scope="module")
def api(served: Served) -> schemathesis.BaseSchema:
    with served.client() as client:
        document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=served.url)
    return schema


@pytest.fixture(scope="module")
def strict(packed_cache: Path) -> Iterator[Served]:
    """A server that accepts what the document says and nothing else."""
    with Served("--unknown-fields", "refuse") as server:
        yield server.ready()


def _without_nulls(value: Any) -> Any:
    """Null counts as absent."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _valid(api: schemathesis.BaseSchema, schema: dict[str, Any], body: object) -> bool:
    whole = {**schema, "components": api.raw_schema["components"]}
    return jsonschema.Draft202012Validator(whole).is_valid(body)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", OPERATIONS)
def test_document_is_true(
    api: schemathesis.BaseSchema, served: Served, strict: Served, path: str, mode: GenerationMode
) -> None:
    operation = api[path][OPERATIONS[path]]
    if mode is GenerationMode.NEGATIVE and not operation.body:
        pytest.skip("nothing to get wrong")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE and path.startswith("/v1/"):
            # Long answers show nothing more; a seed and the model's name make them answers at all.
            case.body["max_output_tokens" if path == "/v1/responses" else "max_tokens"] = 4
            case.body.pop("max_completion_tokens", None)
            case.body["model"] = MODEL
        if mode is GenerationMode.NEGATIVE:
            # A change to one branch of a union can make a good body of another branch.
            schema = operation.body[0].definition["schema"]
            assume(not _valid(api, schema, case.body) and not _valid(api, schema, _without_nulls(case.body)))
        server = strict if mode is GenerationMode.NEGATIVE else served
        case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)

    try:
        run()
    except InvalidSchema as error:  # of schemathesis itself; the messages are the same ones as on /v1/messages
        if path != "/v1/messages/count_tokens" or mode is GenerationMode.POSITIVE:
            raise
        pytest.skip(f"schemathesis makes no bad bodies for this schema: {error}")


def test_document(served: Served, client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/api/chat",
        "/api/generate",
        "/api/show",
        "/api/tags",
        "/api/ps",
        "/api/version",
        "/v1/models",
        "/v1/models/{model}",
        "/tokenize",
        "/detokenize",
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
    assert document["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False
