"""Grammars: what they allow, how they end, what is refused, and that states come back after guesses and errors."""

from __future__ import annotations

import json
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import geminate.grammar.compiler
from geminate.decoding.constraint import Constraint
from geminate.errors import GeminateError, GrammarError, ParameterError
from geminate.grammar.compiler import (
    GrammarCompiler,
    GrammarSpec,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    ToolCalls,
)
from geminate.grammar.json_schema import has_finite_value, resolve
from geminate.grammar.matching import CompiledGrammar
from geminate.text.tokenizer import Tokenizer
from support.tiny_tokenizer import backend, embedded_tokenizer

TOKENIZER = embedded_tokenizer()
ENDS = (1, 106, 50)
VOCAB = TOKENIZER.vocab_size + 37  # a table padded beyond the tokenizer


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, vocab_size=VOCAB, eos_ids=ENDS)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_bos=False)


def accepts(state: Constraint, text: str, tokenizer: Tokenizer = TOKENIZER) -> bool:
    """Whether ``text`` is allowed token for token; a fresh state is as before afterwards."""
    taken = 0
    try:
        for token in tokenizer.encode(text, add_bos=False):
            if not state.allowed()[token]:
                return False
            state.advance(token)
            taken += 1
        return bool(state.allowed()[ENDS[0]])
    finally:
        state.rollback(taken)


ADDRESS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "zip": {"type": "integer", "minimum": 0}},
    "required": ["city"],
    "additionalProperties": False,
}
CASES: list[tuple[GrammarSpec, list[str], list[str]]] = [
    (
        JsonSchema(ADDRESS),
        ['{"city": "Bonn"}', '{"city": "Köln", "zip": 50667}', '{"city": ""}'],
        [
            '{"city":"Bonn"}',
            '{"zip": 1}',
            '{"city": "Bonn",  "zip": 1}',
            '{ "city": "Bonn"}',
            '{"city": "Bonn-Bonn"}',
            "",
        ],
    ),
    (JsonObject(), ["{}", '{"a": [1, {"b": null}]}', '{"a": -1.5e3}'], ["[]", '{"a":1}', "{ }", '{"a": 1} ', "1"]),
    (Regex(r"[a-z]{2}/\d+"), ["ab/1", "zz/042"], ["ab/", "abc/1", "ab/1 ", "ab/٣"]),
    (Regex(""), [""], ["a"]),
    (Lark('start: "x" w ("," w)*\nw: /[0-9]+/'), ["x1", "x1,22"], ["x", "x1,"]),
]


@pytest.mark.parametrize("spec, good, bad", CASES, ids=[type(c[0]).__name__ + str(i) for i, c in enumerate(CASES)])
def test_what_is_allowed(compiler: GrammarCompiler, spec: GrammarSpec, good: list[str], bad: list[str]) -> None:
    state = compiler.compile(spec).start()
    assert [text for text in good if not accepts(state, text)] == []
    assert [text for text in bad if accepts(state, text)] == []
    thinking = compiler.compile(spec, reasoning=True).start()
    for thought in ("", "<|channel>thought\n<channel|>", '<|channel>thought\nHm, "{é}\n\n<|"|>\n<channel|>'):
        assert [text for text in good if not accepts(thinking, thought + text)] == []
        assert [text for text in bad if accepts(thinking, thought + text)] == []
    assert not accepts(state, "<|channel>thought\n<channel|>" + good[0])
    assert not accepts(thinking, "<|channel>other\n<channel|>" + good[0])
    grammar = compiler.compile(spec, reasoning="open")
    for begun in (grammar, compiler.behind_thought(grammar), compiler.behind_thought(compiler.compile(spec))):
        for thought in ("<channel|>", 'Hm, "{é}\n\n<|"|>\n<channel|>'):
            assert [text for text in good if not accepts(begun.start(), thought + text)] == []
            assert [text for text in bad if accepts(begun.start(), thought + text)] == []
        assert not accepts(begun.start(), good[0])


def test_every_end_token_ends_and_nothing_follows(compiler: GrammarCompiler) -> None:
    state = compiler.compile(Regex("ab?")).start()
    mask = state.allowed()
    assert mask.dtype == np.bool_ and mask.shape == (VOCAB,) and not mask[list(ENDS)].any()
    (a,) = ids("a")
    state.advance(a)
    assert state.allowed()[list(ENDS)].all()
    for end in ENDS:
        state.advance(end)
        assert np.flatnonzero(state.allowed()).tolist() == sorted(ENDS)  # ignore_eos goes on with ends
        assert state.forced() == ()
        with pytest.raises(GrammarError, match="after the end"):
            state.advance(a)
        state.advance(ENDS[0])
        state.rollback(2)
        assert state.allowed()[ids("b")[0]]
    state.rollback(1)
    assert np.array_equal(state.allowed(), mask)


def test_padding_is_never_allowed(compiler: GrammarCompiler) -> None:
    assert not compiler.compile(Regex("(?s:.*)")).start().allowed()[TOKENIZER.vocab_size :].any()


def test_a_token_that_is_not_allowed_changes_nothing(compiler: GrammarCompiler) -> None:
    state = compiler.compile(JsonSchema(ADDRESS)).start()
    before = state.allowed().copy()
    for token in (ids("x")[0], ENDS[0], VOCAB - 1):
        with pytest.raises(GrammarError, match="not what the grammar allows"):
            state.advance(token)
    assert np.array_equal(state.allowed(), before)
    assert accepts(state, '{"city": "Bonn"}')
    with pytest.raises(GrammarError, match="take back 1 of 0"):
        state.rollback(1)


def test_rollback_gives_every_earlier_mask_back(compiler: GrammarCompiler) -> None:
    text = ids('{"name": "é\\n", "list": [1, 2.5, {"x": true}]}')
    state = compiler.compile(JsonObject()).start()
    masks = []
    for token in text:
        masks.append(state.allowed().copy())
        state.advance(token)
    rng = np.random.default_rng(1)
    at = len(text)
    for _ in range(60):
        to = int(rng.integers(0, len(text)))
        if to <= at:
            state.rollback(at - to)
        else:
            for token in text[at:to]:
                state.advance(token)
        at = to
        assert np.array_equal(state.allowed(), masks[at])


def test_states_are_independent(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(Regex("ab|cd"))
    first, second = grammar.start(), grammar.start()
    first.advance(ids("a")[0])
    second.advance(ids("c")[0])
    assert first.allowed()[ids("b")[0]] and second.allowed()[ids("d")[0]]


def test_forced_tokens_are_what_the_mask_leaves(compiler: GrammarCompiler) -> None:
    state = compiler.compile(JsonSchema(ADDRESS)).start()
    forced = state.forced()
    assert TOKENIZER.decode(forced) == '{"city": '  # the quote may begin a longer token
    for token in forced:
        assert state.allowed()[token]
        state.advance(token)
    assert state.forced() == ()


def test_an_error_in_a_guess_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ambiguous grammar outgrows the parser's limits."""
    monkeypatch.setitem(geminate.grammar.compiler.LIMITS, "max_items_in_row", 40)
    small = GrammarCompiler(TOKENIZER, vocab_size=VOCAB, eos_ids=ENDS)
    grammar = small.compile(Lark('start: "b" | "x" s\ns: s s | "x"'))
    state = grammar.start()
    (x,) = ids("x")
    taken = 0
    with pytest.raises(GrammarError, match=r"cannot be followed further: .*items"):
        while taken < 100:
            assert state.allowed()[x]
            state.advance(x)
            taken += 1
    assert 5 < taken < 90
    assert state.forced() == ()
    with pytest.raises(GeminateError):
        state.advance(x)
    state.rollback(taken - 1)
    assert state.allowed()[x]
    state.rollback(1)
    assert accepts(state, "b") and accepts(state, "xxx") and accepts(grammar.start(), "b")


def test_text_forced_without_end(compiler: GrammarCompiler) -> None:
    state = compiler.compile(Lark('start: "b" | "a" more\nmore: "c" more')).start()
    state.advance(ids("a")[0])
    for _ in range(5):
        forced = state.forced()
        (only,) = np.flatnonzero(state.allowed())
        assert forced == () or forced[0] == only
        state.advance(int(only))
    state.rollback(6)
    assert accepts(state, "b")


def test_a_full_automaton_is_not_the_next_replys_fault(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text of such a grammar adds states, and all replies of a grammar share them."""
    grammar = compiler.compile(Regex("(a|b)*a(a|b){17}"))
    rng = np.random.default_rng(3)
    choices = [ids(c)[0] for c in "ab"]
    built: list[object] = []
    build = CompiledGrammar._build

    def counted(self: CompiledGrammar) -> Any:
        built.append(self)
        return build(self)

    monkeypatch.setattr(CompiledGrammar, "_build", counted)
    for _ in range(60):
        state = grammar.start()
        for token in rng.choice(choices, 2000):
            state.advance(int(token))
        assert state.allowed()[choices[0]]
    assert built


def chain(n: int) -> dict[str, Any]:
    inner = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)}
    return {"$ref": "#/$defs/d0", "$defs": {**inner, f"d{n}": {"type": "integer"}}}


def nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[GrammarSpec, str]] = [
    (JsonSchema({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (JsonSchema({"not": {"type": "string"}}), "JSON schema, \\$: 'not' cannot be enforced"),
    (JsonSchema({"type": "strin"}), "unknown type 'strin'"),
    (JsonSchema({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "oneOf"),
    (JsonSchema({"$ref": "http://other/schema"}), "other/schema"),
    (JsonSchema({"$ref": "#/$defs/none"}), "does not exist"),
    (JsonSchema({"enum": []}), "Unsatisfiable"),
    (JsonSchema({"type": "integer", "minimum": 5, "maximum": 3}), "Unsatisfiable"),
    (JsonSchema({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}), "requires itself"),
    (JsonSchema({"$ref": "#"}), "requires itself"),
    (JsonSchema({"x-guidance": {"lenient": True}}), "x-guidance"),
    (JsonSchema({"const": float("nan")}), "not JSON"),
    (JsonSchema({"const": object()}), "not JSON"),
    (JsonSchema({"const": "\ud800"}), "not JSON"),
    (JsonSchema([]), "must be an object"),  # type: ignore[arg-type]
    (JsonSchema(nested(300)), "recursion limit|too deeply"),
    (JsonSchema(nested(5000)), "too deeply"),
    (JsonSchema({"enum": [f"value {i}" for i in range(20_000)]}), "characters"),
    (Regex("(a"), "regular expression cannot be used.*unclosed group"),
    (Regex("(?=a)b"), "look"),
    (Regex("[a&&b]"), "no output at all"),
    (Regex("(a{1000}){1000}"), "too"),
    (Regex("\ud800"), "surrogate"),
    (Regex("(" * 50_000 + ")" * 50_000), "regular expression"),
    (Regex(5), "must be a string"),  # type: ignore[arg-type]
    (Lark("start: foo"), "unknown name"),
    (Lark(" "), "rule 'start'"),
    (Lark('start: "a" start'), "[Tt]oo"),
    (Lark("start: a\na: b\nb: a"), "no output at all"),
    (Lark("start: <no_such>"), "special token"),
    (Lark("start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1}' for i in range(5000)) + '\nr5000: "b"'), "rules"),
    (Lark('start: "x" %json {"type": "array", "uniqueItems": true}'), "uniqueItems"),
    (ToolCalls(tools=[]), "empty"),
]


@pytest.mark.parametrize("spec, message", REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(compiler: GrammarCompiler, spec: GrammarSpec, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as info:
        compiler.compile(spec)
    assert len(str(info.value)) < 600 and "\n" not in str(info.value)


def test_long_chains_do_not_break_the_process(compiler: GrammarCompiler) -> None:
    """The library compiles chains of rules recursively; an ordinary stack holds about 1,500 of them."""
    state = compiler.compile(JsonSchema(chain(2000))).start()
    assert state.allowed()[ids("[")[0]]
    rules = "start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1} "b"' for i in range(990)) + '\nr990: "c"'
    assert compiler.compile(Lark(rules)).start().allowed().any()


def test_equal_grammars_are_compiled_once(compiler: GrammarCompiler) -> None:
    one = compiler.compile(JsonSchema({"type": "integer"}))
    assert compiler.compile(JsonSchema({"type": "integer"})) is one
    assert compiler.compile(JsonSchema({"type": "integer"}), reasoning=True) is not one
    for i in range(40):
        compiler.compile(Regex(f"a{i}"))
    assert compiler.compile(JsonSchema({"type": "integer"})) is one  # while somebody has it
    gone = weakref.ref(one)
    del one
    compiler.compile(JsonSchema({"type": "boolean"}))
    for i in range(40):
        compiler.compile(Regex(f"a{i}"))
    assert gone() is None


def test_threads_share_a_compiler(compiler: GrammarCompiler) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                state = compiler.compile(Regex(f"[a-{'bcdefghij'[(i + number) % 9]}]+")).start()
                assert accepts(state, "ab")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and threading.stack_size() == 0


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    fresh = GrammarCompiler(TOKENIZER, vocab_size=VOCAB, eos_ids=ENDS)
    with pytest.raises(GeminateError, match="pip install 'llguidance>="):
        fresh.compile(JsonObject())


def test_models_that_lack_tokens() -> None:
    tiny = Tokenizer(backend(["<pad>", "<eos>", "<bos>", "<unk>"]))
    bare = GrammarCompiler(tiny, vocab_size=tiny.vocab_size, eos_ids=[1])
    assert accepts(bare.compile(JsonObject()).start(), "{}", tiny)
    with pytest.raises(ParameterError, match="cannot reason"):
        bare.compile(JsonObject(), reasoning=True)
    with pytest.raises(ParameterError, match="cannot call tools"):
        bare.compile(ToolCalls(tools=[("f", None)]))
    endless = GrammarCompiler(tiny, vocab_size=tiny.vocab_size, eos_ids=[])
    with pytest.raises(ParameterError, match="no token that ends"):
        endless.compile(JsonObject())


@pytest.mark.parametrize(
    "schema, finite",
    [
        ({}, True),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, True),
        ({"type": "array", "items": {"$ref": "#"}}, True),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, False),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": {"$ref": "#"}, "minItems": 1}, True),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, True),
        ({"allOf": [{"$ref": "#"}, {"type": "null"}]}, False),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "null"}}}, True),
    ],
)
def test_finite_values(schema: dict[str, Any], finite: bool) -> None:
    assert has_finite_value(schema) is finite


def test_finite_values_of_many_tangled_references() -> None:
    every = [{"$ref": f"#/$defs/d{i}"} for i in range(40)]
    tangled = {"type": "object", "properties": {"a": {"anyOf": every}}, "required": ["a"]}
    schema = {"$ref": "#/$defs/d0", "$defs": {f"d{i}": tangled for i in range(40)}}
    assert not has_finite_value(schema)
    schema["$defs"]["d39"] = {"type": "null"}  # type: ignore[index]
    assert has_finite_value(schema)


def test_references_within_a_document() -> None:
    root = json.loads('{"a~b": {"c/d": [1, {"e": 2}]}}')
    assert resolve(root, "#/a~0b/c~1d/1/e") == 2 and resolve(root, "#") is root
    for reference in ("#/x", "#/a~0b/c~1d/7", "other.json", None):
        with pytest.raises(ParameterError):
            resolve(root, reference)
