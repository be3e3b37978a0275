"""Tool calls: which arguments a schema lets through, what is refused, and how calls are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.errors import ParameterError
from geminate.families.gemma4.dialect import DIALECT
from geminate.families.gemma4.tool_grammar import calls_lark
from geminate.families.gemma4.tool_reader import ArgumentsReader
from geminate.families.gemma4.tool_reader import Gemma4CallReader as CallReader
from geminate.grammar.compiler import GrammarCompiler, ToolCalls
from geminate.text.template import ChatTemplate
from support.tiny_tokenizer import EMBEDDED, embedded_tokenizer
from support.tool_calls import render

TOKENIZER = embedded_tokenizer()
TOKENS = TOKENIZER.call_tokens()
COMPILER = GrammarCompiler(TOKENIZER, vocab_size=TOKENIZER.vocab_size, eos_ids=[1, 106, 50])


def fits(spec: ToolCalls, text: str, *, reasoning: Any = False) -> bool:
    """Whether a reply of this text may end after it."""
    state = COMPILER.compile(spec, reasoning=reasoning).start()
    for token in TOKENIZER.encode(text, add_bos=False):
        if not state.allowed()[token]:
            return False
        state.advance(token)
    return bool(state.allowed()[50])


def obj(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, INT, BOOL, NULL = ({"type": kind} for kind in ("string", "integer", "boolean", "null"))
SHORT = {"type": "string", "minLength": 2, "maxLength": 3}
LIST = {"type": "array", "items": INT, "minItems": 1, "maxItems": 2}
CHAIN = {"$ref": "#/$defs/n", "$defs": {"n": obj("v", v=INT, next={"$ref": "#/$defs/n"})}}
MAP = {"type": "object", "additionalProperties": INT, "maxProperties": 2}
MIXED = {"enum": ["x", "y z", 3, None, "", [], {"k": [1, "w"]}]}
KINDS = {"oneOf": [obj("t", t={"const": "a"}, x=INT), obj("t", t={"const": "b"}, y=TEXT)]}

CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (None, [{}], [{"a": 1}]),
    ({}, [{}, {"a": {"b": [1, "c", None, {}]}}], []),
    ({"type": "object"}, [{"a": -1.5e-7, "b": ""}], [{"a b": 1}]),
    (obj(), [{}], [{"a": 1}]),
    (obj("a", a=TEXT), [{"a": 'x, y}: {"é\n<'}, {"a": ""}], [{}, {"a": 1}, {"a": "", "b": ""}]),
    (
        obj(a=TEXT, b=INT, c=NULL),
        [{}, {"a": "x"}, {"b": 1}, {"c": None}, {"a": "", "c": None}, {"b": 2, "c": None}],
        [{"b": 1, "a": ""}],
    ),
    (
        obj("b", a=TEXT, b=INT, c=BOOL),
        [{"b": 1}, {"a": "x", "b": -5, "c": True}, {"b": 0, "c": False}],
        [{"a": "x", "c": True}],
    ),
    (
        {"type": "object", "properties": {"a": INT}, "required": ["b"]},
        [{"b": "x"}, {"a": 1, "b": []}],
        [{"a": 1}, {"b": 1, "z": 1}],
    ),
    (
        obj("a", a={"type": "integer", "minimum": 3, "maximum": 12}),
        [{"a": 3}, {"a": 12}],
        [{"a": 13}, {"a": 2}, {"a": "3"}],
    ),
    (obj("a", a={"type": "number"}), [{"a": 1}, {"a": -0.25}, {"a": 1e30}], [{"a": "1"}, {"a": True}]),
    (obj("a", a=SHORT), [{"a": "xé"}, {"a": "x\ny"}], [{"a": "x"}, {"a": "xxxx"}]),
    (
        obj("a", a={"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}),
        [{"a": "abc"}],
        [{"a": "abcd"}, {"a": "ab1"}, {"a": ""}],
    ),
    (obj("a", a={"type": "string", "pattern": "b/\\d"}), [{"a": "ab/1c"}], [{"a": "b/"}]),
    (obj("a", a={"type": "string", "pattern": "^(a|b)$"}), [{"a": "b"}], [{"a": "bb"}]),
    (obj("a", a=MIXED), [{"a": value} for value in MIXED["enum"]], [{"a": "3"}, {"a": "null"}, {"a": 4}]),
    (obj("a", a={"enum": ["x", 3], "type": "string"}), [{"a": "x"}], [{"a": 3}]),
    (obj("a", a={"const": "x", "enum": ["x", "y"]}), [{"a": "x"}], [{"a": "y"}]),
    (obj("a", a=LIST), [{"a": [1]}, {"a": [1, 2]}], [{"a": []}, {"a": [1, 2, 3]}, {"a": ["x"]}]),
    (obj("a", a={"type": "array", "maxItems": 1}), [{"a": []}, {"a": ["x"]}], [{"a": [1, 2]}]),
    (obj("a", a={"type": "array", "maxItems": 0}), [{"a": []}], [{"a": [1]}]),
    (obj("a", a={"type": "array", "items": INT, "maxItems": 10**8}), [{"a": []}, {"a": [1, 2, 3]}], []),
    (obj("a", a={"anyOf": [INT, obj("x", x=TEXT)]}), [{"a": 1}, {"a": {"x": "q"}}], [{"a": "q"}]),
    (obj("a", a={"type": ["integer", "null"], "minimum": 2}), [{"a": None}, {"a": 2}], [{"a": 1}]),
    (obj("a", a={"allOf": [INT], "title": "A", "default": 1}), [{"a": 1}], [{"a": "x"}]),
    (obj("a", a={"oneOf": [INT, TEXT]}), [{"a": 1}, {"a": "x"}], [{"a": None}]),
    (obj("a", a=KINDS), [{"a": {"t": "a", "x": 1}}, {"a": {"t": "b", "y": "z"}}], [{"a": {"t": "a", "y": "z"}}]),
    (MAP, [{}, {"x": 1}, {"x": 1, "y": 2}], [{"x": 1, "y": 2, "z": 3}, {"x": "s"}]),
    (CHAIN, [{"v": 1}, {"v": 1, "next": {"v": 2, "next": {"v": 3}}}], [{"v": 1, "next": {}}]),
]


@pytest.mark.parametrize("schema, good, bad", CASES, ids=range(len(CASES)))
def test_schemas(schema: Any, good: list[Any], bad: list[Any]) -> None:
    spec = ToolCalls(tools=[("f", schema)], required=True, strict=True)
    assert [a for a in good if not fits(spec, render("f", a))] == []
    assert [a for a in bad if fits(spec, render("f", a))] == []


def test_keys_that_could_be_misread_stand_in_quotes() -> None:
    spec = ToolCalls(tools=[("f", obj("a b", **{"a b": INT}))], required=True, strict=True)
    call = '<|tool_call>call:f{<|"|>a b<|"|>:1}<tool_call|>'
    assert fits(spec, call) and read(call) == ("f", '{"a b": 1}')


SOFT: list[tuple[Any, str]] = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "prefixItems": [INT]}, "prefixItems"),
    ({"type": "string", "format": "date"}, "format 'date'"),
    ({"type": "string", "pattern": "^a|b$"}, "pattern"),
    ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    ({"allOf": [TEXT, {"maxLength": 3}]}, "allOf"),
    ({"oneOf": [INT, {"type": "number"}]}, "oneOf"),
    ({"type": "object", "properties": {"a": INT}, "minProperties": 1}, "minProperties"),
    ({"type": "object", "properties": {"a": INT}, "anyOf": [{"required": ["a"]}]}, "'anyOf' beside 'type'"),
    ({"not": {}}, "not"),
    ({"if": {}}, "if"),
    ({"minLength": 3}, "minLength"),
]
HARD: list[tuple[Any, str]] = [
    ({"enum": []}, "no value fits"),
    ({"enum": 5}, "must be a list"),
    ({"type": "str"}, "unknown type 'str'"),
    (False, "something that is false"),
    ({"type": "string", "minLength": -1}, "from 0"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength is less"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "Unsatisfiable"),
    ({"type": "array", "minItems": 3, "maxItems": 2}, "maxItems is less"),
    ({"type": "array", "items": False, "minItems": 1}, "false"),
    ({"$ref": "#/x"}, "points to nothing"),
    ({"$ref": "other.json"}, "within the schema"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "requires itself"),
]


@pytest.mark.parametrize("schema, message", SOFT, ids=range(len(SOFT)))
def test_what_the_syntax_cannot_keep_to(schema: Any, message: str) -> None:
    tools = [("easy", None), ("hard", obj("a", a=schema))]
    with pytest.raises(ParameterError, match=f"tool 'hard', parameters.a: .*{message}"):
        COMPILER.compile(ToolCalls(tools=tools, strict=True))
    with pytest.raises(ParameterError, match=message):
        COMPILER.compile(ToolCalls(tools=tools, strict=["hard"]))
    for strict in (False, ["easy"]):
        spec = ToolCalls(tools=tools, required=True, strict=strict)
        assert fits(spec, render("easy", {}))
        some = [{"a": "2024-01-01"}, {"a": [1, 1]}, {"a": {"a": 1}}, {"a": 1}]
        assert any(fits(spec, render("hard", arguments)) for arguments in some)


@pytest.mark.parametrize("schema, message", HARD, ids=range(len(HARD)))
def test_what_nothing_fits(schema: Any, message: str) -> None:
    for strict in (True, False):
        with pytest.raises(ParameterError, match=message):
            COMPILER.compile(ToolCalls(tools=[("f", obj("a", a=schema))], strict=strict))


def test_tools_that_are_none() -> None:
    def lark(*tools: tuple[Any, Any]) -> str:
        return calls_lark(tools, TOKENS, required=True, parallel=True, strict=False, ends=[1])

    for bad in ("a b", "", "f{", "x" * 129, 5):
        with pytest.raises(ParameterError, match="name must be"):
            lark((bad, None))
    with pytest.raises(ParameterError, match="same name"):
        lark(("f", None), ("f", None))
    for schema in ({"type": "string"}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array"}}}):
        with pytest.raises(ParameterError, match="type object"):
            lark(("f", schema))
    for schema in ({"properties": 5}, {"required": "a"}):
        with pytest.raises(ParameterError, match="must be an object and required a list"):
            lark(("f", schema))
    with pytest.raises(ParameterError, match="must be an object, not a list"):
        lark(("f", []))
    with pytest.raises(ParameterError, match=r"parameters\.x: the schema is false"):
        lark(("f", obj("x", a=TEXT)))
    deep: dict[str, Any] = {}
    for _ in range(240):
        deep = obj("a", a=deep)
    with pytest.raises(ParameterError, match="too deeply"):
        lark(("f", deep))


F, G = render("f", {}), render("g", {"a": "x"})


@pytest.mark.parametrize(
    "required, parallel, good, bad",
    [
        (True, True, [F, F + G, G + G + F], ["", "hello", "x" + F, F + "x", F[:-1]]),
        (True, False, [F, G], ["", F + G]),
        (
            False,
            True,
            ["", "hello\n", "hello " + F, F + G, 'odd <|"|> <|channel>thought\n<channel|>' + G],
            [F + "x", "<tool_call|>"],
        ),
        (False, False, ["", "hello " + F], [F + G]),
    ],
)
def test_how_many_calls(required: bool, parallel: bool, good: list[str], bad: list[str]) -> None:
    spec = ToolCalls(tools=[("f", None), ("g", obj("a", a=TEXT))], required=required, parallel=parallel)
    thought = "<|channel>thought\nShould I?<channel|>"
    assert [text for text in good if not fits(spec, text)] == []
    assert [text for text in bad if fits(spec, text)] == []
    assert [text for text in good if not fits(spec, thought + text, reasoning=True)] == []
    assert [text for text in bad if fits(spec, thought + text, reasoning=True)] == []


@pytest.mark.parametrize("reasoning", [True, "open"])
def test_a_call_in_a_thought_is_none(reasoning: Any) -> None:
    """It would be read as a call whose arguments no schema held for."""
    spec = ToolCalls(tools=[("g", obj("a", a=TEXT))])
    opening = "" if reasoning == "open" else "<|channel>thought\n"
    assert fits(spec, f"{opening}Hm<channel|>{G}", reasoning=reasoning)
    assert not fits(spec, f"{opening}Hm{F}<channel|>{G}", reasoning=reasoning)


def test_free_text_is_masked_by_nothing_but_the_closing_marker() -> None:
    state = COMPILER.compile(ToolCalls(tools=[("f", None)])).start()
    for token in TOKENIZER.encode("Some text", add_bos=False):
        assert (~state.allowed()).nonzero()[0].tolist() == [TOKENS.closed]
        state.advance(token)


def read(text: str) -> tuple[str | None, str]:
    reader = CallReader(TOKENIZER, TOKENS)
    out = ""
    for token in TOKENIZER.encode(text, add_bos=False):
        if token not in (TOKENS.opened, TOKENS.closed):
            out += reader.push(token)
    out += reader.close()
    return reader.name, out


def test_the_embedded_template_and_the_reader_agree() -> None:
    template = ChatTemplate.load(Checkpoint.open(EMBEDDED), DIALECT)
    assert template is not None
    arguments = {
        "city": 'Köln "am" Rhein, {x}: [1]\n',
        "days": 3,
        "ok": True,
        "no": None,
        "l": [1, "a"],
        "o": {"k": "v\\"},
    }
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    text = template.render(
        [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}], add_generation_prompt=False
    )
    name, out = read(text[text.index("<|tool_call>") : text.index("<tool_call|>")])
    assert name == "get_weather" and json.loads(out) == arguments


def test_text_is_told_as_it_comes() -> None:
    reader = ArgumentsReader()
    assert reader.text("{ci") == "{"
    assert reader.text("ty:") == '"city": '
    assert reader.quote() == '"'
    assert reader.text('a"b') == 'a\\"b' and reader.text("}\n,") == "}\\n,"
    assert reader.quote() == ""  # it may belong to the text
    assert reader.text(",n:1") == '", "n": ' and reader.text("2") == ""
    assert reader.text(",x:[") == '12, "x": ['
    assert reader.text("true,nu") == "true, " and reader.text("ll]}") == "null]}"
    assert reader.done and not reader.malformed
    assert reader.text("more}") == "" and reader.close() == ""


Q = "\0"  # a quote token


@pytest.mark.parametrize(
    "text, value",
    [
        ("{}", {}),
        ("{ a : 1 , b : [ ] }", {"a": 1, "b": []}),
        (f"{{{Q}a:b{Q}:{Q}{Q}}}", {"a:b": ""}),
        ('{"a": "b\\n\\u00e9", "c": [1, "\\""]}', {"a": "b\né", "c": [1, '"']}),
        ("{a:True,b:False,c:None}", {"a": True, "b": False, "c": None}),
        ("{a:New York,b:01,c:+1,d:.5,e:NaN}", {"a": "New York", "b": "01", "c": "+1", "d": ".5", "e": "NaN"}),
        ("{a:1,}", {"a": 1}),
        ("{a:[1,]}", {"a": [1]}),
        ("{a:,b:1}", {"a": None, "b": 1}),
        ("{a:}", {"a": None}),
        ("{a", {}),
        ("{a:", {"a": None}),
        ("{a:1", {"a": 1}),
        ("{a:tr", {"a": "tr"}),
        (f"{{a:{Q}x", {"a": "x"}),
        (f"{{a:{Q}x{Q}", {"a": "x"}),
        (f"{{{Q}a", {}),
        (f"{{{Q}a{Q}", {}),
        ('{"a', {}),
        ('{a:"x\\', {"a": "x\\"}),
        ('{a:"\\ud800"}', {"a": "\\ud800"}),
        ("{a:[1,{b:2", {"a": [1, {"b": 2}]}),
        ("{a:[1}", {"a": [1]}),
        ("{a:{b:1],c:2}", {"a": {"b": 1}}),
        ("{a:1}}", {"a": 1}),
        ("{a:[,1]}", {"a": []}),
        ("{:1}", {}),
        (f"{{a:1{Q}x{Q}}}", {"a": 1}),
        (f"{{a:{Q}x{Q}y}}", {"a": 'x<|"|>y}'}),
        (f"{{a:{Q}x{Q} }}", {"a": "x"}),
        (f"{{a:[{Q}x{Q},{Q}y{Q}],b:{Q}{Q}}}", {"a": ["x", "y"], "b": ""}),
        (f"{{a:[{Q}x{Q}}}{Q}]}}", {"a": ['x<|"|>}']}),
        (f"{{a:{Q}x{Q}]{Q},b:1}}", {"a": 'x<|"|>]', "b": 1}),
        (f"{{a:{Q}sql({Q}{Q}{Q} SELECT {Q} \n{Q}){Q}}}", {"a": 'sql(<|"|><|"|><|"|> SELECT <|"|> \n<|"|>)'}),
        (f"{{a:{Q}{Q}{Q}}}", {"a": '<|"|>'}),
        ("{a:1 b:2}", {"a": "1 b:2"}),
        ("{" * 3000, {}),
        ("[1]", {}),
        ("x", {}),
        ("", {}),
    ],
)
def test_lenient_and_malformed(text: str, value: Any) -> None:
    for size in (1, 3, len(text) or 1):  # however it is split
        reader, out = ArgumentsReader(), ""
        for start in range(0, len(text), size):
            for at, part in enumerate(text[start : start + size].split(Q)):
                out += (reader.quote() if at else "") + reader.text(part)
        out += reader.close()
        assert json.loads(out) == value and reader.done


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ""),
        ("{", "{"),
        ("{pat", '{"pat'),
        ("{path:", '{"path": '),
        (f"{{{Q}a b", '{"a b'),
        (f"{{{Q}a b{Q}", '{"a b'),
        (f"{{a:{Q}x", '{"a": "x'),
        (f"{{a:{Q}x{Q}", '{"a": "x'),
        (f"{{a:{Q}x{Q},", '{"a": "x"'),
        (f"{{a:{Q}x{Q},b", '{"a": "x", "b'),
        ("{a:12", '{"a": 12'),
        ("{a:-1.", '{"a": -1.'),
        ("{a:tr", '{"a": tr'),
        ("{a:Tru", '{"a": '),
        ("{a:No", '{"a": '),
        ("{a:[1,[2", '{"a": [1, [2'),
        ('{"a": "b\\u00e', '{"a": "b'),
        ('{"a": "b\\n', '{"a": "b\\n'),
        ("{a:1}", '{"a": 1}'),
    ],
)
def test_what_a_cut_leaves(text: str, expected: str) -> None:
    reader, out = ArgumentsReader(), ""
    for at, part in enumerate(text.split(Q)):
        out += (reader.quote() if at else "") + reader.text(part)
    assert out + reader.cut() == expected


INSIDE = st.text(st.sampled_from('ab (),}]:"\\\n'), max_size=6).filter(lambda text: text.lstrip()[:1] not in (",", "}"))


@given(st.text(st.sampled_from("ab,}]: "), max_size=6), st.lists(INSIDE, max_size=4))
def test_quotes_inside_of_strings(first: str, more: list[str]) -> None:
    """A mark that no value could end at is text; what follows is never lost."""
    reader, out = ArgumentsReader(), ""
    for at, part in enumerate(f"{{a:{Q}{Q.join([first, *more])}{Q},b:1}}".split(Q)):
        out += (reader.quote() if at else "") + reader.text(part)
    assert json.loads(out + reader.close()) == {"a": '<|"|>'.join([first, *more]), "b": 1}


def test_surplus_braces_nest() -> None:
    reader = ArgumentsReader()
    out = reader.text("{a:" + "{a:" * 200) + reader.close()
    assert out.count("{") == 201 and json.loads(out)


@pytest.mark.parametrize(
    "text, name, arguments",
    [
        ("call:f{}", "f", "{}"),
        ("call:f", "f", "{}"),
        (" call: ns.f-1 {a:1}", "ns.f-1", '{"a": 1}'),
        ("f{a:1}", "f", '{"a": 1}'),
        ("f", None, ""),
        ("", None, ""),
        ("I think {a:1}", None, ""),
        ('call:<|"|>f<|"|>{}', None, ""),
    ],
)
def test_headers(text: str, name: str | None, arguments: str) -> None:
    assert read(text) == (name, arguments)
