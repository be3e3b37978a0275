"""Tools and a response format together: a completion is calls or an answer, whatever is drawn; numbers end."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate import LLM, SamplingParams
from geminate.grammar.compiler import Grammar, JsonObject, JsonSchema, Lark, Regex, ToolCalls
from geminate.grammar.numbers import DIGITS, FRACTION_DIGITS
from geminate.text.reply import ChatReply
from support.tool_calls import arguments_of, render

MODES: tuple[Any, ...] = ("off", "auto", 4)
PROMPTS = ("Once upon a time", "The weather in Paris is", "1, 2, 3, 4,")
ANSWER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "warm": {"type": "boolean"},
        "degrees": {"type": "number"},
    },
    "required": ["city", "degrees"],
    "additionalProperties": False,
}  # fmt: skip
WEATHER = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["place"],
}  # fmt: skip
TOOLS = [("get_weather", WEATHER), ("now", None)]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


def same(llm: LLM, grammar: Grammar, seed: int, *, bias: dict[int, float] | None = None, most: int = 300) -> list[int]:
    """The tokens of a completion, which is the same in every mode; it must have ended."""
    params = SamplingParams(max_tokens=most, temperature=1.0, seed=seed, logit_bias=bias or {})
    prompt = PROMPTS[seed % 3]
    plain, *others = [llm.generate(prompt, params, speculation=mode, grammar=grammar)[0] for mode in MODES]
    assert all(other.token_ids == plain.token_ids for other in others)
    assert plain.finish_reason == "stop", plain.text
    return plain.token_ids


def split(llm: LLM, tokens: list[int]) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls."""
    assert llm.tokenizer is not None
    reply = ChatReply(llm.tokenizer, [], tools=True)
    deltas = [*(delta for token in tokens for delta in reply.push(token)), *reply.flush()]
    return "".join(d.text for d in deltas if d.kind == "content"), arguments_of(deltas)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_calls_or_an_answer(llm: LLM, thinking: bool, parallel: bool) -> None:
    assert llm.tokenizer is not None
    spec = ToolCalls(tools=TOOLS, parallel=parallel, answer=JsonSchema(ANSWER))
    grammar = llm.grammars.compile(spec, reasoning=thinking)
    opened = llm.tokenizer.call_tokens().opened
    seen = {"calls": 0, "answer": 0}
    for seed in range(16):
        # The embedded model rarely calls: the bias makes calls frequent.
        tokens = same(llm, grammar, seed, bias={opened: 12.0 if seed % 2 and not parallel else 0.0})
        content, calls = split(llm, tokens)
        if calls:
            seen["calls"] += 1
            assert not content and (parallel or len(calls) == 1)
            for name, arguments in calls:
                jsonschema.validate(json.loads(arguments), dict(TOOLS)[name] or {"maxProperties": 0})
        else:
            seen["answer"] += 1
            jsonschema.validate(json.loads(content), ANSWER)
    assert seen["answer"] and (parallel or seen["calls"])


def accepts(llm: LLM, spec: Any, text: str, *, reasoning: bool = False) -> bool:
    assert llm.tokenizer is not None
    state = llm.grammars.compile(spec, reasoning=reasoning).start()
    for token in llm.tokenizer.encode(text, add_bos=False):
        if not state.allowed()[token]:
            return False
        state.advance(token)
    return bool(state.allowed()[list(llm.config.eos_token_ids)].any())


def test_what_is_allowed(llm: LLM) -> None:
    call, now, answer = render("get_weather", {"place": "Rome"}), render("now", {}), '{"city": "Rome", "degrees": 1}'
    thought = '<|channel>thought\nHm, 1234567890123456789012345, "{<channel|>'
    for parallel in (True, False):
        spec = ToolCalls(tools=TOOLS, parallel=parallel, answer=JsonSchema(ANSWER))
        for before, reasoning in (("", False), ("", True), (thought, True)):
            for text in (call, now, answer):
                assert accepts(llm, spec, before + text, reasoning=reasoning)
            assert accepts(llm, spec, before + call + now, reasoning=reasoning) == parallel
            for text in ("", "Hello", answer + call, call + answer, "Hello " + call, '{"city": "Rome"}'):
                assert not accepts(llm, spec, before + text, reasoning=reasoning)
    required = ToolCalls(tools=TOOLS, required=True, answer=JsonSchema(ANSWER))
    assert accepts(llm, required, call) and not accepts(llm, required, answer)
    for spec, text in ((JsonObject(), "{}"), (Regex("[a-c]+"), "abc"), (Lark('start: "x" | "y"'), "y")):
        either = ToolCalls(tools=TOOLS, answer=spec)
        assert accepts(llm, either, text) and accepts(llm, either, call) and not accepts(llm, either, "z")


NUMBERS: list[dict[str, Any]] = [
    {"type": "number"},
    {"type": "integer"},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
    {"type": "number", "maximum": -3.5},
    {"type": "integer", "minimum": 10**17},
    {"type": "integer", "multipleOf": 7},
    {"type": "number", "multipleOf": 0.05},
    {"enum": [0.1234567890123456, 1e15, -1.5e-7, 9007199254740991]},
]


@pytest.mark.parametrize("schema", NUMBERS, ids=range(len(NUMBERS)))
def test_numbers_end(llm: LLM, schema: dict[str, Any]) -> None:
    """Also for a model that wants nothing but digits."""
    assert llm.tokenizer is not None
    digits = dict.fromkeys(llm.tokenizer.encode("0123456789", add_bos=False), 30.0)
    zeros = {llm.tokenizer.encode("0", add_bos=False)[-1]: 60.0}
    tool = ToolCalls(
        tools=[("f", {"type": "object", "properties": {"a": schema}, "required": ["a"]})], required=True, parallel=False
    )
    whole, called = llm.grammars.compile(JsonSchema(schema)), llm.grammars.compile(tool)
    for seed, bias in enumerate((None, digits, zeros, None)):
        text, _ = split(llm, same(llm, whole, seed, bias=bias, most=60))
        jsonschema.validate(json.loads(text), schema) if "multipleOf" not in schema else checked(text, schema)
        assert all(len(part) <= DIGITS + 4 for part in text.replace("e", ".").split("."))
        ((_, arguments),) = split(llm, same(llm, called, seed, bias=bias, most=90))[1]
        value = json.loads(arguments)["a"]
        assert isinstance(value, int | float) and abs(value) < float("inf")


def checked(text: str, schema: dict[str, Any]) -> None:
    """Multiples of decimals cannot be checked in binary."""
    from decimal import Decimal

    assert Decimal(text) % Decimal(str(schema["multipleOf"])) == 0


def test_numbers_anywhere_in_json(llm: LLM) -> None:
    assert llm.tokenizer is not None
    digits = dict.fromkeys(llm.tokenizer.encode("0123456789", add_bos=False), 30.0)
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "array", "items": {"type": ["integer", "null"]}, "maxItems": 2},
            "c": {"type": "string", "maxLength": 60},
        },
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    }  # fmt: skip
    grammar = llm.grammars.compile(JsonSchema(schema))
    value = json.loads(split(llm, same(llm, grammar, 1, bias=digits))[0])
    assert value["a"] < 10 ** (DIGITS + 3) and len(value["c"]) == 60  # strings may be all digits
    long, point = "1" * 30, "0." + "3" * 30
    for spec in (JsonSchema({"type": "number"}), JsonObject()):
        for text in (long, point, "1e111"):
            assert not accepts(llm, spec, text if isinstance(spec, JsonSchema) else f'{{"a": {text}}}')
    assert accepts(llm, JsonObject(), json.dumps({"a": long, "b" * 3 + long: [1.5, -2e-7, 0.00012345678901234567]}))


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6)), st.floats(0.001, 1e6).map(lambda x: round(x, 3)),
    st.booleans(), st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
def test_no_bounds_leave_a_number_without_end(
    llm: LLM, low: float, width: float, open_low: bool, open_high: bool, seed: int
) -> None:
    high = low + width
    schema = {
        "type": "number",
        "exclusiveMinimum" if open_low else "minimum": low,
        "exclusiveMaximum" if open_high else "maximum": high,
    }
    rng = random.Random(seed)
    state = llm.grammars.compile(JsonSchema(schema)).start()
    written: list[int] = []
    ends = list(llm.config.eos_token_ids)
    while not (
        state.allowed()[ends].any() and (rng.random() < 0.02 or state.allowed().nonzero()[0].tolist() == sorted(ends))
    ):
        token = int(rng.choice([t for t in state.allowed().nonzero()[0].tolist() if t not in ends]))
        state.advance(token)
        written.append(token)
        assert len(written) < 2 * (DIGITS + FRACTION_DIGITS)
    assert llm.tokenizer is not None
    jsonschema.validate(json.loads(llm.tokenizer.decode(written)), schema)


def test_marks_in_strings_are_read_back_whole(llm: LLM) -> None:
    """Whatever the grammar allows in a free string, the reader reads as one string."""
    assert llm.tokenizer is not None
    tokens = llm.tokenizer.call_tokens()
    spec = ToolCalls(
        tools=[("f", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}})],
        required=True,
    )
    head = llm.tokenizer.encode("<|tool_call>call:f{a:", add_bos=False)
    tail = llm.tokenizer.encode(",b:1}<tool_call|>", add_bos=False)
    pieces = ["sql(", " SELECT", ",", "}", "]", "\n", " ", "x", ",b:2}"]
    rng = random.Random(4)
    marked = 0
    for _ in range(150):
        state = llm.grammars.compile(spec).start()
        inside: list[int] = []
        for _ in range(rng.randint(0, 5)):
            inside += [tokens.quote] if rng.random() < 0.4 else llm.tokenizer.encode(rng.choice(pieces), add_bos=False)
        whole = [*head, tokens.quote, *inside, tokens.quote, *tail]
        for token in whole:
            if not state.allowed()[token]:
                break
            state.advance(token)
        else:
            ((_, arguments),) = split(llm, whole)[1]
            wanted = llm.tokenizer.decode(inside, skip_special=False)
            if tokens.quote in inside:
                marked += 1
            assert json.loads(arguments) == {"a": wanted, "b": 1}
    assert marked > 10
