"""Gemma 3's marks: turns alone."""

from __future__ import annotations

from geminate.text.dialect import Dialect

DIALECT = Dialect(
    specials={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    turn_ends=("<turn|>", "<end_of_turn>", "<|tool_response>"),
)
