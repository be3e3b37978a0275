"""Gemma 4's marks: turns, the reasoning channel, and tool calls."""

from __future__ import annotations

from geminate.families.gemma4.tool_grammar import calls_lark
from geminate.families.gemma4.tool_reader import Gemma4CallReader
from geminate.text.dialect import Dialect, ReasoningMarks, ToolSyntax

DIALECT = Dialect(
    specials={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    turn_ends=("<turn|>", "<end_of_turn>", "<|tool_response>"),
    reasoning=ReasoningMarks(opened="<|channel>", closed="<channel|>", line="thought\n"),
    tools=ToolSyntax(
        opened="<|tool_call>", closed="<tool_call|>", quote='<|"|>', reader=Gemma4CallReader, grammar=calls_lark
    ),
)
