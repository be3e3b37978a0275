"""Invalid bodies are refused in the time that reading them takes, whatever their shape."""

from __future__ import annotations

import gc
import json
import resource
import time
from typing import Any

import pytest
from pydantic import BaseModel

from geminate.server.http.errors import ApiError
from geminate.server.http.parsing import MAX_KEYS, validated
from geminate.server.openai.schemas_chat import ChatRequest, CompletionRequest, DetokenizeRequest
from geminate.server.openai.schemas_responses import ResponseRequest

MB4 = 4 << 20


def body(field: str, item: str, **more: Any) -> bytes:
    """4 MB: ``field`` holds one item again and again."""
    start = json.dumps({"model": "m", **more})[:-1]
    count = (MB4 - 200) // (len(item) + 1)
    return f'{start}, "{field}": [{",".join([item] * count)}]}}'.encode()


BOMBS: dict[str, tuple[type[BaseModel], bytes]] = {
    "prompt of bad ids": (CompletionRequest, body("prompt", "-1")),
    "prompt of lists": (CompletionRequest, body("prompt", "[]")),
    "input of objects": (ResponseRequest, body("input", "{}")),
    "input of numbers": (ResponseRequest, body("input", "1")),
    "messages of numbers": (ChatRequest, body("messages", "1")),
    "content of numbers": (
        ChatRequest,
        b'{"model": "m", "messages": [{"role": "user", ' + body("content", "1")[1:] + b"]}",
    ),
    "tokens": (DetokenizeRequest, body("tokens", "-1")),
    "unknown keys": (ChatRequest, ("{" + ",".join(f'"k{i}":1' for i in range(350_000)) + "}").encode()),
}


@pytest.mark.parametrize("name", BOMBS)
def test_the_first_faults_are_enough(name: str) -> None:
    model, data = BOMBS[name]
    assert 2_000_000 < len(data) <= MB4 + 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.freeze()  # or collections walk through everything the tests before this one have loaded
    began = time.process_time()
    try:
        with pytest.raises(ApiError) as caught:
            validated(data, model)
    finally:
        gc.unfreeze()
    assert caught.value.status == 400 and len(str(caught.value)) < 1000
    assert time.process_time() - began < 6  # 36 s before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KB; 5.2 GB before


def test_an_object_of_too_many_keys_is_named() -> None:
    with pytest.raises(ApiError, match=f"limit is {MAX_KEYS:,}"):
        validated(json.dumps({f"k{i}": 1 for i in range(MAX_KEYS + 1)}).encode(), ChatRequest)
