"""1,000 random bad bodies: an answer every time, and never a 5xx."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from support.serving import MODEL, Served, chat_body

COUNT = 1000
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(
        max_tokens=2,
        temperature=1.0,
        stop=["x"],
        logit_bias={"5": 1.0},
        n=1,
        stream=False,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        tool_choice="auto",
        chat_template_kwargs={"enable_thinking": True},
        logprobs=True,
        top_logprobs=1,
    ),
    "/v1/completions": {"model": MODEL, "prompt": "Once", "max_tokens": 2, "stop": "q", "logprobs": 1, "seed": 3},
    "/v1/responses": {
        "model": MODEL,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "max_output_tokens": 2,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}},
    },
    "/tokenize": {"messages": [{"role": "user", "content": "x"}]},
    "/detokenize": {"tokens": [1, 2, 3]},
}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 0.5, 1e308, "", "a", "\ud800", "\x00", "🙂" * 50,
    "<|turn>", "<|tool_call>call:f{", [], {}, [[]], [None], {"": None}, {"type": "object"},
    {"type": ["string", "null"], "$ref": "#"}, {"$ref": "#/x"}, {"anyOf": []}, {"type": "text"},
    {"type": "regex", "regex": "(a+)+$"}, {"type": "regex", "regex": "["}, {"type": "json_object"},
    {"type": "grammar", "grammar": "start: start"}, ["a"] * 300, "x" * 5000, [2**40], "auto",
    {"role": "tool", "tool_call_id": "x", "content": "y"}, {"role": "assistant", "content": None},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def mutated(rng: random.Random, body: dict[str, Any]) -> dict[str, Any]:
    body = json.loads(json.dumps(body))
    for _ in range(rng.randint(1, 3)):
        target = rng.choice(places(body) or [("x",)])
        parent: Any = body
        try:
            for step in target[:-1]:
                parent = parent[step]
            action = rng.random()
            if action < 0.6:
                parent[target[-1]] = copy.deepcopy(rng.choice(ODD))
            elif action < 0.8:
                del parent[target[-1]]
            elif isinstance(parent, dict):
                parent[rng.choice(["x", "stream", "n", "seed", "trace", "content", "role", "type", ""])] = (
                    copy.deepcopy(rng.choice(ODD))
                )
        except (KeyError, IndexError, TypeError):
            continue
    return body


def bad_bytes(rng: random.Random, body: dict[str, Any]) -> bytes:
    data = bytearray(json.dumps(mutated(rng, body)).encode("utf-8", "surrogatepass"))
    kind = rng.random()
    if kind < 0.25:
        return rng.randbytes(rng.randint(0, 200))
    for _ in range(rng.randint(1, 8)):
        index = rng.randrange(len(data) + 1)
        if rng.random() < 0.5:
            data[index:index] = rng.choice([b"\xff", b"{", b"]", b'"', b"\\u", b"NaN", b"9" * 500, b"[" * 500, b"\x00"])
        else:
            del data[index : index + rng.randint(1, 5)]
    return bytes(data)


def test_nothing_breaks_it(served: Served) -> None:
    rng = random.Random(5)
    seen: dict[int, int] = {}
    with served.client() as client:
        for number in range(COUNT):
            path = rng.choice(list(GOOD))
            if rng.random() < 0.7:
                content = json.dumps(mutated(rng, GOOD[path])).encode()
            else:
                content = bad_bytes(rng, GOOD[path])
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code < 500, (number, path, content[:2000], answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"] and "Traceback" not in answer.text
            elif "event-stream" in answer.headers["content-type"]:
                assert '"error"' not in answer.text.split("\n\n")[-2], (content, answer.text)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert seen[400] > COUNT / 2 and set(seen) <= {200, 400, 404, 429}
    served.quiet()
    assert served.process.poll() is None and "unexpected exception" not in "".join(served.raw)
