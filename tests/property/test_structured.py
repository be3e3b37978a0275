"""Structured answers: always valid, always ended, and the same whatever was drafted; tool calls there and back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate import LLM, SamplingParams
from geminate.backends.cpu.sampler import NativeSequenceSampler
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent
from geminate.errors import GeminateError
from geminate.grammar.compiler import Grammar, JsonSchema, ToolCalls
from geminate.grammar.state import GrammarState
from geminate.output import Output
from geminate.text.reply import ChatReply, ReplyDelta
from support.tool_calls import arguments_of, render

SCHEMAS = 200
PROMPTS = ("Once upon a time", "The weather in Paris is", "1, 2, 3, 4,")


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


def bounded(rng: random.Random, depth: int) -> dict[str, Any]:
    """A schema that only finitely many values fit, all of them short."""
    kinds = ["string", "pattern", "enum", "integer", "boolean", "null", "const", "multiple"]
    kind = rng.choice(kinds + ["object", "array", "anyOf", "types"] * 2 if depth else kinds)
    match kind:
        case "string":
            least = rng.randint(0, 2)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 5)}
        case "pattern":
            patterns = ["^[a-c]{1,3}$", "^[0-9]{2}-[0-9]{2}$", "^(yes|no|maybe)$", "^[A-Z][a-z]{0,4}$", "^é{1,2} $"]
            return {"type": "string", "pattern": rng.choice(patterns)}
        case "enum":
            values = ["red", 'a "quoted" word', "naïve\n", 3, -1.5, True, None, "", {"a": [1, 2]}]
            return {"enum": rng.sample(values, rng.randint(1, 4))}
        case "integer":
            low = rng.randint(-300, 300)
            return {"type": "integer", "minimum": low, "exclusiveMaximum": low + rng.randint(1, 2000)}
        case "multiple":
            return {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": rng.choice([2, 5, 7])}
        case "const":
            return {"const": rng.choice(["fixed", 42, None, [1, "two"]])}
        case "array":
            least = rng.randint(0, 1)
            return {
                "type": "array",
                "items": bounded(rng, depth - 1),
                "minItems": least,
                "maxItems": least + rng.randint(0, 2),
            }
        case "anyOf":
            return {"anyOf": [bounded(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
        case "types":
            return {"type": ["boolean", "null", "integer"], "minimum": 0, "maximum": 20}
        case "object":
            names = rng.sample(["name", "age", "city", "ok", "items", "größe", "a b"], rng.randint(0, 4))
            return {
                "type": "object",
                "properties": {name: bounded(rng, depth - 1) for name in names},
                "required": [name for name in names if rng.random() < 0.6],
                "additionalProperties": False,
            }
        case _:
            return {"type": kind}


def answers(
    llm: LLM, grammar: Grammar, prompt: str, temperature: float, modes: tuple[Any, ...], seed: int = 5
) -> list[Output]:
    params = SamplingParams(max_tokens=400, temperature=temperature, seed=seed, logprobs=2)
    return [llm.generate(prompt, params, speculation=mode, grammar=grammar)[0] for mode in modes]


def check(llm: LLM, number: int, modes: tuple[Any, ...] = ("off", "auto", 4)) -> None:
    rng = random.Random(number)
    schema = bounded(rng, 2)
    grammar = llm.grammars.compile(JsonSchema(schema))
    for temperature in (0.0, 1.5):
        plain, *others = answers(llm, grammar, PROMPTS[number % 3], temperature, modes)
        assert plain.finish_reason == "stop", schema
        jsonschema.validate(json.loads(plain.text), schema)
        for other in others:
            assert other.token_ids == plain.token_ids, schema
            assert other.logprobs == plain.logprobs and other.finish_reason == "stop"


@pytest.mark.parametrize("part", range(10))
def test_random_schemas(llm: LLM, part: int) -> None:
    for number in range(part, SCHEMAS, 10):
        check(llm, number)


def test_guesses_are_made_and_accepted(llm: LLM) -> None:
    """The proof above is of something only if drafts of every kind occur in it."""
    schema = {
        "type": "object",
        "properties": {"story": {"type": "string", "maxLength": 200}, "ok": {"type": "boolean"}},
        "required": ["story", "ok"],
        "additionalProperties": False,
    }
    grammar = llm.grammars.compile(JsonSchema(schema))
    sources: dict[str, int] = {}
    real = Engine.step

    def watched(self: Engine) -> list[EngineEvent]:
        events = real(self)
        for event in events:
            sources[event.source] = sources.get(event.source, 0) + event.accepted
        return events

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", watched)
        prompt = 'Once upon a time there was a girl. "story": Once upon a time there was a girl. '
        answers(llm, grammar, prompt, 0.0, (4, "ngram", "auto"))
    assert sources["mtp"] > 0 and sources["ngram"] > 0 and sources["forced"] > 0


def test_every_way_in_and_in_a_batch(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string", "maxLength": 30}, "n": {"type": "integer", "maximum": 9}},
        "required": ["title"],
        "additionalProperties": False,
    }
    grammar = llm.grammars.compile(JsonSchema(schema))
    assert llm.grammars is llm.grammars
    params = SamplingParams(max_tokens=200, temperature=1.0, seed=2)
    alone = [llm.generate(prompt, params, speculation="off", grammar=grammar)[0] for prompt in PROMPTS]
    for output in alone:
        jsonschema.validate(json.loads(output.text), schema)
    for speculation in ("off", "auto", 5):
        together = llm.generate(PROMPTS, params, speculation=speculation, grammar=grammar)  # type: ignore[arg-type]
        assert [o.token_ids for o in together] == [o.token_ids for o in alone]
        *_, last = llm.stream(PROMPTS[0], params, speculation=speculation, grammar=grammar)  # type: ignore[arg-type]
        assert last.output is not None and last.output.token_ids == alone[0].token_ids
    question = [{"role": "user", "content": "Give me a title."}]
    told_so = llm.chat(question, params, grammar=grammar)
    jsonschema.validate(json.loads(told_so.text), schema)


def test_beyond_the_end_there_are_ends_only(llm: LLM) -> None:
    grammar = llm.grammars.compile(JsonSchema({"const": [1, 2]}))
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=1, ignore_eos=True)
    plain, drafted = (llm.generate(PROMPTS[0], params, speculation=k, grammar=grammar)[0] for k in (0, 4))
    assert plain.token_ids == drafted.token_ids and plain.finish_reason == "length" and plain.text == "[1, 2]"


@pytest.fixture
def broken(llm: LLM) -> Iterator[Callable[[], bool]]:
    """Whether `check` fails for one of the first schemas."""

    def fails() -> bool:
        for number in range(20):
            try:
                check(llm, number, ("off", 4))
            except (AssertionError, GeminateError, json.JSONDecodeError, jsonschema.ValidationError):
                return True
        return False

    assert not fails()
    yield fails
    assert not fails()


def test_without_rollback_it_is_caught(broken: Callable[[], bool]) -> None:
    """Mutation control."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrammarState, "rollback", lambda self, count: None)
        assert broken()


def test_a_mask_at_the_first_row_only_is_caught(broken: Callable[[], bool]) -> None:
    """Mutation control."""
    real = NativeSequenceSampler.draw

    def draw(
        self: NativeSequenceSampler, logits: Any, position: int, drafts: tuple[int, ...] = (), allowed: Any = None
    ) -> int:
        return real(self, logits, position, drafts, None if drafts else allowed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeSequenceSampler, "draw", draw)
        assert broken()


def test_tool_calls_are_valid_and_the_same(llm: LLM) -> None:
    rng = random.Random(8)
    made = 0
    for number in range(24):
        tools = []
        for name in ("get_weather", "set-timer", "f.g")[: rng.randint(1, 3)]:
            schema = bounded(rng, 1)
            while schema.get("type") != "object":
                schema = bounded(rng, 1)
            tools.append((name, schema))
        parallel = number % 2 == 0
        grammar = llm.grammars.compile(ToolCalls(tools=tools, required=True, parallel=parallel))
        for temperature in (0.0, 1.5):
            plain, *others = answers(llm, grammar, PROMPTS[number % 3], temperature, ("off", "auto", 3), number)
            assert all(o.token_ids == plain.token_ids and o.logprobs == plain.logprobs for o in others)
            if plain.finish_reason != "stop":
                assert parallel  # several calls may follow each other for ever
                continue
            calls = arguments_of(told(llm, plain.token_ids))
            assert len(calls) == 1 or (parallel and calls)
            for name, text in calls:
                jsonschema.validate(json.loads(text), dict(tools)[name])
            made += 1
    assert made > 30


def told(llm: LLM, tokens: list[int], *, flush: bool = True) -> list[ReplyDelta]:
    assert llm.tokenizer is not None
    reply = ChatReply(llm.tokenizer, [], tools=True)
    deltas = [delta for token in tokens for delta in reply.push(token)]
    return [*deltas, *(reply.flush() if flush else [])]


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<"), max_size=12)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.floats(-1e99, 1e99) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(ARGUMENTS, min_size=1, max_size=2))
def test_arguments_there_and_back(llm: LLM, several: list[dict[str, Any]]) -> None:
    assert llm.tokenizer is not None
    text = "".join([render("tool", arguments) for arguments in several])
    tokens = llm.tokenizer.encode(text, add_bos=False)
    state = llm.grammars.compile(ToolCalls(tools=[("tool", {"type": "object"})], required=True)).start()
    for token in tokens:  # what the reader takes is what the grammar allows
        assert state.allowed()[token]
        state.advance(token)
    calls = arguments_of(told(llm, tokens))
    assert [(name, json.loads(args)) for name, args in calls] == [("tool", arguments) for arguments in several]
    for cut in range(len(tokens)):  # wherever it ends, and whatever was told before stays
        before = arguments_of(told(llm, tokens[:cut], flush=False))
        after = arguments_of(told(llm, tokens[:cut]))
        assert all(b[1].startswith(a[1]) for a, b in zip(before, after, strict=False))
        assert all(b[1].startswith(a[1]) for a, b in zip(after, calls, strict=False))  # nothing is closed early


@settings(max_examples=200, deadline=None)
@given(ARGUMENTS, st.randoms(use_true_random=False))
def test_malformed_calls_stay_json(llm: LLM, arguments: dict[str, Any], rng: random.Random) -> None:
    assert llm.tokenizer is not None
    tokens = llm.tokenizer.encode(render("tool", arguments), add_bos=False)
    pieces = llm.tokenizer.encode(
        '<|"|>{}[],:"\\u-1e.+true<|tool_call><tool_call|><|channel><channel|>é\n', add_bos=False
    )
    pieces += [204, 230, 255]  # bytes
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(1, len(tokens))
        match rng.randrange(3):
            case 0 if len(tokens) > 2:
                del tokens[at]
            case 1:
                tokens[at] = rng.choice(pieces)
            case _:
                tokens.insert(at, rng.choice(pieces))
    closed = tokens[-1] == llm.tokenizer.call_tokens().closed  # else the last call may be cut off
    calls = arguments_of(told(llm, tokens))
    for _, text in calls if closed else calls[:-1]:
        value = json.loads(text)
        assert isinstance(value, dict)
        text.encode("utf-8")
