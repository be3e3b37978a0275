"""Finds the texts of special tokens in grammars.

The library cannot follow a grammar that spells such a text out: it expects the token there, which only Lark's
``<[...]>`` may name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from geminate.errors import ParameterError, shown
from geminate.grammar.keywords import subschemas
from geminate.text.tokenizer import Tokenizer

_ATOM = re.compile(r"\\([^A-Za-z0-9])|\\.|([^\\|()\[\]{}.*+?^$])|.", re.DOTALL)


class SpecialTexts:
    """The texts of a tokenizer's special tokens; without a tokenizer there are none."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _by_prefix(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        tokenizer = self._tokenizer
        for token in range(0 if tokenizer is None else tokenizer.vocab_size):
            if tokenizer is not None and tokenizer.is_special(token):
                text = tokenizer.decode([token], skip_special=False)
                if len(text) > 1:
                    found.setdefault(text[:2], []).append(text)
        return found

    def find(self, texts: Iterable[str]) -> str | None:
        """The text of a special token that one of the ``texts`` contains."""
        joined = "\0".join(texts)
        for prefix, specials in self._by_prefix.items():
            if prefix in joined:
                for text in specials:
                    if text in joined:
                        return text
        return None

    def _check(self, texts: Iterable[str], label: str) -> None:
        found = self.find(texts)
        if found is not None:
            raise ParameterError(
                f"{label} contains {shown(found)}, the text of a special token, which no text of a completion can "
                "contain; remove it"
            )

    def check_regex(self, pattern: str, label: str) -> None:
        """Refuse a regular expression that spells a special token.

        Raises:
            ParameterError: it does.
        """
        parts = ((m[1] or m[2] or "\0") for m in _ATOM.finditer(pattern))
        self._check(["".join(parts)], label)

    def check_literal(self, literal: str, label: str) -> None:
        """Refuse a Lark literal, quotes or slashes included, that spells a special token.

        Raises:
            ParameterError: it does.
        """
        if literal.startswith("/"):
            self.check_regex(literal[1:-1], label)
            return
        try:
            text = json.loads(literal)
        except ValueError:
            text = literal
        self._check([text], label)

    def check_schema(self, schema: object, label: str) -> None:
        """Refuse a JSON schema whose constants, property names or patterns spell a special token.

        Raises:
            ParameterError: it does.
        """
        level = [schema]
        texts: list[str] = []
        while level:
            at = level.pop()
            if not isinstance(at, Mapping):
                continue
            for values in (at.get("const"), at.get("enum")):
                texts.extend(_strings(values))
            for names in (at.get("properties"), at.get("required")):
                texts.extend(name for name in names or () if isinstance(name, str))
            if isinstance(at.get("pattern"), str):
                self.check_regex(at["pattern"], label)
            level.extend(inner for _, inner in subschemas(at))
        self._check(texts, label)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
