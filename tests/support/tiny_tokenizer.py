"""A Gemma-style tokenizer, built in a test: byte-fallback BPE, ▁ for space, Gemma 4's or 3's special tokens."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.families.gemma4.dialect import DIALECT
from geminate.text.tokenizer import Tokenizer

EMBEDDED = Path(__file__).parents[2] / "src" / "geminate" / "assets" / "embedded" / "target"

SPECIALS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
    "<|tool_response>", "<tool_response|>", '<|"|>', "<|think|>", "<|channel>", "<channel|>",
    "<|turn>", "<turn|>",
]  # fmt: skip
GEMMA3_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"<>|{}:-_\nöé\u0301"
MERGES = [
    ("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("i", "n"), ("in", "g"), ("e", "r"),
    ("o", "n"), ("l", "l"), ("e", "ll"), ("H", "ell"), ("Hell", "o"), ("▁", "w"), ("▁w", "o"),
    ("r", "l"), ("rl", "d"), ("▁wo", "rld"), ("\n", "\n"),
]  # fmt: skip


def backend(specials: list[str] = SPECIALS) -> tokenizers.Tokenizer:
    """The bare library object."""
    vocab: dict[str, int] = {}
    names = [*specials, *(f"<0x{b:02X}>" for b in range(256)), *LETTERS]
    for name in [*names, *(left + right for left, right in MERGES)]:
        vocab.setdefault(name, len(vocab))
    model = models.BPE(vocab=vocab, merges=MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    return tokenizer


def tiny_tokenizer() -> Tokenizer:
    """Wrapped as the project uses it."""
    return Tokenizer(backend(), dialect=DIALECT)


def embedded_tokenizer() -> Tokenizer:
    """The tokenizer in the package; it must be there."""
    tokenizer = Tokenizer.load(Checkpoint.open(EMBEDDED), DIALECT)
    assert tokenizer is not None, f"no tokenizer in {EMBEDDED}"
    return tokenizer
