"""Mutations of bytes and of JSON values; all randomness comes from the generator that is given."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 0.5, 1e308, "", "a", "\ud800", "\x00", "🙂" * 50,
    "<|turn>", "<|tool_call>call:f{", [], {}, [[]], [None], {"": None}, {"type": "object"},
    {"type": ["string", "null"], "$ref": "#"}, {"$ref": "#/x"}, {"anyOf": []}, {"type": "text"},
    {"type": "regex", "regex": "(a+)+$"}, {"type": "regex", "regex": "["}, {"type": "json_object"},
    {"type": "grammar", "grammar": "start: start"}, ["a"] * 300, "x" * 5000, [2**40], "auto",
    {"role": "tool", "tool_call_id": "x", "content": "y"}, {"role": "assistant", "content": None},
]  # fmt: skip
KEYS = ["x", "stream", "n", "seed", "trace", "content", "role", "type", ""]
PIECES = [b"\xff", b"{", b"]", b'"', b"\\u", b"NaN", b"9" * 500, b"[" * 500, b"\x00"]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def odd_like(rng: random.Random, value: Any) -> Any:
    """Something odd, often of the same kind."""
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice([value * 2, value + 1, -value, 0, value * 1000, 2**62, 0.5, str(value), 10**9, 3])
    if isinstance(value, list) and value and rng.random() < 0.5:
        return rng.choice([value[:-1], value * 2, [*value, value[0]], [value]])
    return copy.deepcopy(rng.choice(ODD))


def mutated(rng: random.Random, body: Any, keys: list[str] = KEYS) -> Any:
    """A JSON value with one to three changes."""
    body = copy.deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        target = rng.choice(places(body) or [("x",)])
        parent: Any = body
        try:
            for step in target[:-1]:
                parent = parent[step]
            action = rng.random()
            if action < 0.6:
                parent[target[-1]] = odd_like(rng, parent[target[-1]])
            elif action < 0.8:
                del parent[target[-1]]
            elif isinstance(parent, dict):
                parent[rng.choice(keys)] = copy.deepcopy(rng.choice(ODD))
        except (KeyError, IndexError, TypeError):
            continue
    return body


def dumped(value: Any) -> bytes:
    """JSON text; lone surrogates as they come."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def bad_json(rng: random.Random, value: Any) -> bytes:
    """JSON text with damage, or no JSON at all."""
    if rng.random() < 0.25:
        return rng.randbytes(rng.randint(0, 200))
    data = bytearray(dumped(value))
    for _ in range(rng.randint(1, 8)):
        index = rng.randrange(len(data) + 1)
        if rng.random() < 0.5:
            data[index:index] = rng.choice(PIECES)
        else:
            del data[index : index + rng.randint(1, 5)]
    return bytes(data)


def damaged(rng: random.Random, data: bytes, *, reach: int | None = None) -> bytes:
    """Bytes with one to six changes, in the first ``reach`` bytes: flips, numbers, cuts, repetitions."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not out:
            break
        at = rng.randrange(min(len(out), reach or len(out)))
        kind = rng.random()
        if kind < 0.35:
            out[at] ^= 1 << rng.randrange(8)
        elif kind < 0.65:
            width = rng.choice([1, 2, 4, 8])
            out[at : at + width] = (rng.choice(NUMBERS) % 256**width).to_bytes(width, "little")
        elif kind < 0.75:
            del out[at : at + rng.randint(1, 64)]
        elif kind < 0.85:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif kind < 0.95:
            out[at:at] = rng.choice([*PIECES, rng.randbytes(rng.randint(1, 16))])
        else:
            del out[at:]
    return bytes(out)
