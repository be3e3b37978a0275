"""Reads Gemma 4's tool calls as they come: tokens in, JSON arguments out; valid JSON whatever the model wrote, unless
the call is cut off.

The syntax is in `geminate.families.gemma4.tool_grammar`. Read leniently: keys may stand in quotes, strings in JSON's
own, ``True``, ``False`` and ``None`` are Python's, other bare words are strings, white space is passed over.

A ``<|"|>`` ends a string only where a value may end: before a comma, the bracket that closes the object or list around
the string, or the end of the call. Anywhere else it belongs to the text, since models write such code as arguments.
"""

from __future__ import annotations

import json
import re

from geminate.text.call_tokens import CallTokens
from geminate.text.detokenizer import Detokenizer, TokenTexts

_HEADER = re.compile(r"\s*(call:)?\s*([A-Za-z0-9_.:/-]+)\s*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BEGUN_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]*)?)?")
_LONGEST_ESCAPE = 12  # characters: two surrogates
_QUOTE = '<|"|>'
_WORDS = {
    "true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null",
}  # fmt: skip


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _unescaped(held: str) -> str:
    """The text of a JSON string's inside that ends anywhere, without an escape that is not complete."""
    for end in range(len(held), max(-1, len(held) - _LONGEST_ESCAPE), -1):
        try:
            text: str = json.loads(f'"{held[:end]}"', strict=False)
            text.encode("utf-8")
        except ValueError:
            continue
        return text
    return ""


class ArgumentsReader:
    """Turns the text after a call's name, ``{`` included, into JSON text, incrementally.

    On what it cannot read it closes what is open and drops the rest, so the parts always add up to a JSON object.

    Attributes:
        malformed: something was dropped or added to make it JSON.
        done: the object is closed.
    """

    def __init__(self) -> None:
        self.malformed = False
        self._open: list[str] = []  # closing brackets
        self._filled: list[bool] = []  # whether something stands in each of them
        self._mode = "value"
        self._held = ""  # of a key, a bare word or a string in JSON's quotes
        self._escaped = False
        self._out: list[str] = []

    @property
    def done(self) -> bool:
        """See the class."""
        return self._mode == "done"

    def text(self, text: str) -> str:
        """JSON that is certain after more text."""
        for at, char in enumerate(text):
            if self._mode == "done":
                break
            if self._mode == "quote":
                if char.isspace():
                    self._held += char
                    continue
                self._quoted_enough(char)
            if self._mode == "string":  # until the next quote everything is content
                self._out.append(_quoted(text[at:])[1:-1])
                break
            if self._mode == "quoted key":
                self._held += text[at:]
                break
            self._char(char)
        return self._take()

    def quote(self) -> str:
        """JSON that is certain after a ``<|"|>`` token."""
        match self._mode:
            case "value" if self._open:
                self._item()
                self._out.append('"')
                self._mode = "string"
            case "string":
                self._held, self._mode = "", "quote"
            case "quote":  # of several in a row only the last can end the string
                self._out.append(_quoted(_QUOTE + self._held)[1:-1])
                self._held = ""
            case "key":
                self._held, self._mode = "", "quoted key"
            case "quoted key":
                self._mode = "colon"
            case "done":
                pass
            case _:
                self._fail()
        return self._take()

    def close(self) -> str:
        """What is missing at the end of the call."""
        if self._mode != "done":
            self._fail()
        return self._take()

    def cut(self) -> str:
        """What is known of a key, a number or a word that a cut left unfinished; nothing is closed.

        It begins what would have come: a string's quote that may be text and a word that may be anything are left out.
        """
        held = self._held
        match self._mode:
            case "bare key" | "quoted key" | "json key" | "colon":
                text = _unescaped(held) if self._mode == "json key" else held
                self._comma()
                self._out.append(_quoted(text.rstrip() if self._mode == "bare key" else text)[:-1])
            case "bare":
                word = next((_WORDS[w] for w in _WORDS if w.startswith(held) and w == _WORDS[w]), "")
                self._out.append(held if word or _BEGUN_NUMBER.fullmatch(held) else "")
            case "json string":
                self._out.append(_quoted(_unescaped(held))[:-1])
        self._mode = "done"
        return self._take()

    def _take(self) -> str:
        out, self._out = "".join(self._out), []
        return out

    def _char(self, char: str) -> None:
        if self._mode in ("json string", "json key"):
            self._json_char(char)
        elif self._mode == "bare":
            if char in ",}]":
                self._bare()
                self._after(char)
            else:
                self._held += char
        elif self._mode == "bare key":
            if char == ":":
                self._key()
            elif char in ",{}[]":
                self._fail()
            else:
                self._held += char
        elif not char.isspace():
            {"value": self._value, "key": self._key_start, "colon": self._colon, "after": self._after}[self._mode](char)

    def _quoted_enough(self, char: str) -> None:
        """Decide by what follows it whether a quote has ended its string."""
        if char in (",", self._open[-1]):
            self._out.append('"')
            self._mode = "after"
        else:
            self._out.append(_quoted(_QUOTE + self._held)[1:-1])
            self._mode = "string"

    def _json_char(self, char: str) -> None:
        if char == '"' and not self._escaped:
            self._json_end()
        else:
            self._held += char
            self._escaped = char == "\\" and not self._escaped

    def _json_end(self) -> None:
        try:
            text = json.loads(f'"{self._held}"', strict=False)
            text.encode("utf-8")
        except ValueError:
            text = self._held
        if self._mode == "json key":
            self._held, self._mode = text, "colon"
        else:
            self._out.append(_quoted(text))
            self._mode = "after"

    def _value(self, char: str) -> None:
        if char in "{[":
            if self._open:
                self._item()
            elif char == "[":
                return self._fail()
            self._out.append(char)
            self._open.append("}" if char == "{" else "]")
            self._filled.append(False)
            self._mode = "key" if char == "{" else "value"
        elif not self._open:
            self._fail()
        elif char == "]" and self._open[-1] == "]":
            self._after(char)
        elif char in ",}" and self._open[-1] == "}":
            self.malformed = True
            self._out.append("null")
            self._after(char)
        elif char in ",:}]":
            self._fail()
        else:
            self._item()
            self._held, self._escaped = "", False
            self._mode = "json string" if char == '"' else "bare"
            self._held = "" if char == '"' else char

    def _item(self) -> None:
        """The comma before an item of a list; in an object it stood before the key."""
        if self._open[-1] == "]":
            self._comma()

    def _comma(self) -> None:
        if self._filled[-1]:
            self._out.append(", ")
        self._filled[-1] = True

    def _key_start(self, char: str) -> None:
        if char == "}":
            self._after(char)
        elif char in ",:{[]":
            self._fail()
        else:
            self._held, self._escaped = ("" if char == '"' else char), False
            self._mode = "json key" if char == '"' else "bare key"

    def _colon(self, char: str) -> None:
        if char == ":":
            self._key()
        else:
            self._fail()

    def _key(self) -> None:
        self._comma()
        held = self._held.strip() if self._mode == "bare key" else self._held
        self._out.append(f"{_quoted(held)}: ")
        self._mode = "value"

    def _bare(self) -> None:
        word = self._held.strip()
        number = _NUMBER.fullmatch(word) is not None
        self.malformed |= not number and word not in _WORDS
        self._out.append(word if number else _WORDS.get(word) or _quoted(word))
        self._mode = "after"

    def _after(self, char: str) -> None:
        if char == self._open[-1]:
            self._out.append(self._open.pop())
            self._filled.pop()
            self._mode = "after" if self._open else "done"
        elif char == ",":
            self._mode = "key" if self._open[-1] == "}" else "value"
        else:
            self._fail()

    def _fail(self) -> None:
        self.malformed = True
        match self._mode:
            case "string" | "quote":
                self._out.append('"')
            case "bare":
                self._bare()
            case "json string":
                self._json_end()
            case "value" if self._open and self._open[-1] == "}":
                self._out.append("null")
            case "value" if not self._open:
                self._out.append("{}")
        self._out.extend(reversed(self._open))
        self._open = []
        self._mode = "done"


class Gemma4CallReader:
    """One call, from the token after ``<|tool_call>`` to the one before ``<tool_call|>``.

    Attributes:
        name: the tool, None until it is known.
        rest: the text of what is no call after all.
    """

    def __init__(self, tokenizer: TokenTexts, tokens: CallTokens) -> None:
        self._quote = tokens.quote
        self._detokenizer = Detokenizer(tokenizer)
        self._header = ""
        self._arguments: ArgumentsReader | None = None
        self.name: str | None = None

    @property
    def rest(self) -> str:
        """See the class; certain after `close`."""
        return self._header if self.name is None else ""

    def push(self, token: int) -> str:
        """JSON of the arguments that is certain after one more token."""
        if token != self._quote:
            return self._text(self._detokenizer.push(token))
        before = self._text(self._detokenizer.flush())
        return before + (self._text(_QUOTE) if self._arguments is None else self._arguments.quote())

    def close(self) -> str:
        """The end of the arguments."""
        before = self._text(self._detokenizer.flush())
        if self._arguments is None and (found := _HEADER.fullmatch(self._header)) and found[1]:
            self.name = found[2]
            return "{}"
        return before + (self._arguments.close() if self._arguments is not None else "")

    def cut(self) -> str:
        """What is known of arguments that end in the middle; no name is told before they begin."""
        before = self._text(self._detokenizer.cut())
        return before + (self._arguments.cut() if self._arguments is not None else "")

    def _text(self, text: str) -> str:
        if self._arguments is not None:
            return self._arguments.text(text)
        start = len(self._header)
        self._header += text
        # Only the first brace can begin the arguments.
        at = self._header.find("{") if "{" not in self._header[:start] else -1
        found = _HEADER.fullmatch(self._header, 0, at) if at >= 0 else None
        if found is None:
            return ""
        self.name = found[2]
        self._arguments = ArgumentsReader()
        return self._arguments.text(self._header[at:])
