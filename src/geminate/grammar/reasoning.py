"""The grammar of a thought that stands before the constrained part of a reply."""

from __future__ import annotations

import json
from collections.abc import Sequence

from geminate.errors import ParameterError
from geminate.grammar.token_range import token_range
from geminate.text.tokenizer import Tokenizer


def reasoning_lark(tokenizer: Tokenizer, ends: Sequence[int], *, begun: bool) -> str:
    """Lark of a thought and then the grammar ``body``.

    A thought holds no mark of a tool call: a call in it would be read as one, and no schema would hold for it.

    Args:
        ends: tokens that end a sequence.
        begun: the prompt has opened the thought, so its rest must come; otherwise there may be one.

    Raises:
        ParameterError: the model's family marks no reasoning, or its tokenizer lacks the marks.
    """
    marks, tools = tokenizer.dialect.reasoning, tokenizer.dialect.tools
    if marks is None:
        raise ParameterError("this model's family marks no reasoning, so it cannot reason before the constrained part")
    opened, closed = tokenizer.token_id(marks.opened), tokenizer.token_id(marks.closed)
    if opened is None or closed is None:
        raise ParameterError(f"this model has no {marks.opened} token, so it cannot reason before the constrained part")
    calls = () if tools is None else map(tokenizer.token_id, (tools.opened, tools.closed))
    inside = token_range([*ends, opened, closed, *(token for token in calls if token is not None)], but=True)
    if begun:
        return f"start: reasoning @body\nreasoning: {inside}* <[{closed}]>\n"
    line = json.dumps(marks.line, ensure_ascii=False)
    return f"start: reasoning? @body\nreasoning: <[{opened}]> {line} {inside}* <[{closed}]>\n"
