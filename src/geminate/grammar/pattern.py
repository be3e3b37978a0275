"""JSON Schema patterns as terminals of a Lark grammar."""

from __future__ import annotations

import re


def whole_text_terminal(pattern: str) -> str | None:
    """A JSON Schema pattern, which may match anywhere in the text, as a terminal that matches the whole text.

    None if the pattern has anchors inside, look-around or back-references.
    """
    from llguidance import LLMatcher, regex_to_lark

    opened = pattern.startswith("^")
    closed = re.search(r"(?<!\\)(\\\\)*\$$", pattern) is not None
    body = pattern[opened : len(pattern) - closed]
    bare = re.sub(r"\\.|\[\^?(\\.|[^\]])*\]", "", body)
    if "^" in bare or "$" in bare or ((opened or closed) and "|" in re.sub(r"\([^()]*\)", "", bare)):
        return None
    inner = f"({regex_to_lark(body, use_ascii='dw')})"
    terminal = f"/{'' if opened else '(?s:.*)'}{inner}{'' if closed else '(?s:.*)'}/"
    return None if LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: {terminal}")) else terminal
