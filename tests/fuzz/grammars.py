"""Random JSON schemas, regular expressions and Lark grammars: refused, or followed for some tokens, within the limits.

An input is JSON: ["schema", value], ["regex", text] or ["lark", text].
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any

from fuzz.mutate import dumped, mutated
from fuzz.target import SEEDS
from fuzz.worker import Worker

ATOMS = ["a", "[a-z]", '[^"]', r"\d", ".", "(?i:x)", r"\w", "é", r"\p{L}", r"[^\x00-\x7f]", r"\n", "$", "^"]
QUANTIFIERS = ["", "*", "+", "?", "{2}", "{0,3}", "{3,}", "{1000}", "{0,100000}", "*?"]
STEPS = 12


@functools.cache
def _llm() -> Any:
    from geminate import LLM

    return LLM(threads=1, cache_dir=None)


def follow(data: bytes) -> None:
    """Compile a grammar and write some tokens under it."""
    from geminate import SamplingParams
    from geminate.grammar.compiler import JsonSchema, Lark, Regex

    kind, value = json.loads(data)
    spec = {"schema": JsonSchema, "regex": Regex, "lark": Lark}[kind](value)
    grammar = _llm().grammars.compile(spec)
    _llm().generate(["A"], SamplingParams(max_tokens=STEPS, temperature=1.0, seed=1), speculation=2, grammar=grammar)


def regex(rng: random.Random, depth: int = 0) -> str:
    """A regular expression."""
    parts = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < 0.6 or depth > 3:
            part = rng.choice(ATOMS)
        elif kind < 0.8:
            part = f"({regex(rng, depth + 1)})"
        else:
            part = f"({regex(rng, depth + 1)}|{regex(rng, depth + 1)})"
        parts.append(part + rng.choice(QUANTIFIERS))
    return "".join(parts)


def schema(rng: random.Random, depth: int = 0) -> Any:
    """A JSON schema."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "ref"]
    kind = rng.choice(kinds if depth > 3 else [*kinds, *["object", "array", "anyOf", "allOf", "oneOf"] * 2])
    numbers = rng.choice([0, 1, 3, 10, 1000, 10**9, -5, 0.1])
    if kind == "object":
        names = [rng.choice("abcdefgh") * rng.randint(1, 3) for _ in range(rng.randint(0, 4))]
        made: dict[str, Any] = {"type": "object", "properties": {name: schema(rng, depth + 1) for name in names}}
        if rng.random() < 0.5:
            made["required"] = names[: rng.randint(0, 4)]
        if rng.random() < 0.5:
            made["additionalProperties"] = rng.choice([False, True, schema(rng, depth + 1)])
        return made
    if kind == "array":
        return {"type": "array", "items": schema(rng, depth + 1), rng.choice(["minItems", "maxItems"]): numbers}
    if kind in ("anyOf", "allOf", "oneOf"):
        return {kind: [schema(rng, depth + 1) for _ in range(rng.randint(1, 4))]}
    if kind in ("integer", "number"):
        return {"type": kind, rng.choice(["minimum", "maximum", "exclusiveMinimum", "multipleOf"]): numbers}
    if kind == "string":
        return {
            "type": "string",
            rng.choice(["minLength", "maxLength", "format"]): rng.choice([numbers, "date", "uuid"]),
        }
    special = {"enum": {"enum": ["a", 1, None, {"b": [1]}]}, "const": {"const": {"x": "\u2028"}},
               "pattern": {"type": "string", "pattern": regex(rng)}, "ref": {"$ref": "#"}}  # fmt: skip
    return special.get(kind, {"type": kind})


def lark(rng: random.Random) -> str:
    """A Lark grammar."""
    rules = [f"r{i}" for i in range(rng.randint(1, 5))]
    names = [*rules, "T", "U"]
    lines = ["start: " + rng.choice(rules)]
    for rule in rules:
        choices = []
        for _ in range(rng.randint(1, 3)):
            items = [rng.choice([*names, '"x"', f'"{rng.choice("abc<>")}"']) for _ in range(rng.randint(0, 3))]
            choices.append(" ".join(item + rng.choice(["", "", "*", "?", "+", "~2", "~0..3"]) for item in items))
        lines.append(f"{rule}: " + " | ".join(choices))
    lines += [f"T: /{regex(rng)}/", rng.choice([f"U: /{regex(rng)}/ & /{regex(rng)}/", f"U: /{regex(rng)}/", ""])]
    return "\n".join(lines)


class Grammars:
    """See the module."""

    name = "grammars"

    def __init__(self) -> None:
        self._worker = Worker("grammars:follow")

    def seeds(self) -> list[bytes]:
        """See `Target`."""
        return [file.read_bytes() for file in sorted((SEEDS / "grammars").iterdir())]

    def make(self, rng: random.Random) -> bytes:
        """See `Target`."""
        kind = rng.choice(["schema", "schema", "regex", "lark"])
        if kind == "schema":
            value = schema(rng)
            return dumped([kind, mutated(rng, value) if rng.random() < 0.5 else value])
        return dumped([kind, regex(rng) if kind == "regex" else lark(rng)])

    def attempt(self, data: bytes) -> str | None:
        """See `Target`."""
        return self._worker.attempt(data)

    def close(self) -> str | None:
        """See `Target`."""
        self._worker.close()
        return None
