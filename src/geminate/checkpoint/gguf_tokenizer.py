"""The tokenizer inside a GGUF file, as a ``tokenizers.Tokenizer`` of the same behaviour.

Two kinds: BPE with merges (``gemma4``) and SentencePiece with scores (``llama``, Gemma 3). The second is BPE as well:
of two neighbours the pair whose joined piece has the highest score is merged first (Sennrich et al. 2016 as
implemented by SentencePiece), so its merge list is every split of every piece into two pieces, best score first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from geminate.checkpoint.gguf_file import GgufFile
from geminate.errors import TokenizerError, shown

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
LISTED, SCORED = "gemma4", "llama"  # tokenizers with a list of merges, and with SentencePiece scores
MAX_TOKEN = 1024  # characters, far above those of published vocabularies
MAX_SPACES = 64  # in a merge, each of which may be the one that separates
SPECIALS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "mask": "mask"}


def gguf_tokenizer(file: GgufFile) -> tuple[tokenizers.Tokenizer, dict[str, str], bool] | None:
    """The tokenizer, its special tokens (``bos_token``: text, ...), and whether bos goes first; None if there is none.

    Raises:
        TokenizerError: a kind that is not supported, or metadata that contradicts itself.
    """
    data, path = file.metadata, file.path
    kind = data.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return None
    tokens = data.get("tokenizer.ggml.tokens")
    if kind not in (LISTED, SCORED):
        raise TokenizerError(f"{path}: tokenizer {shown(kind)} is not supported (gemma4 and llama are)")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
        raise TokenizerError(f"{path} has a tokenizer without a list of tokens")
    if (longest := max(map(len, tokens))) > MAX_TOKEN:
        # A token is split at every character, so that its cost is the square of its length.
        raise TokenizerError(f"{path}: a token has {longest:,} characters, of which {MAX_TOKEN:,} are allowed")
    if data.get("tokenizer.ggml.add_space_prefix", kind == SCORED):
        raise TokenizerError(f"{path}: a tokenizer that puts a space before texts is not supported")
    types = _numbers(file, "token_type", len(tokens), NORMAL)
    vocab = _vocabulary(file, tokens)
    if kind == LISTED:
        merges = _listed_merges(file, vocab)
    else:
        scores = data.get("tokenizer.ggml.scores")
        if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
            raise TokenizerError(f"{path}: tokenizer.ggml.scores does not hold one number per token")
        merges = scored_merges(vocab, scores, types)
    unknown = _special(file, "unknown", tokens)
    try:
        backend = tokenizers.Tokenizer(
            models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        )
        backend.normalizer = normalizers.Replace(" ", "\u2581")
        backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
        added = [
            AddedToken(tokens[i], special=types[i] in (CONTROL, UNKNOWN), normalized=False)
            for i in np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED, UNKNOWN))).tolist()
            if tokens[i]
        ]
        backend.add_tokens(added)
    except Exception as error:  # the library raises bare Exception for every kind of contradiction
        raise TokenizerError(f"{path}: its tokenizer cannot be built: {str(error)[:300]}") from error
    specials = {f"{ours}_token": text for theirs, ours in SPECIALS.items() if (text := _special(file, theirs, tokens))}
    return backend, specials, data.get("tokenizer.ggml.add_bos_token") is not False


def gguf_templates(file: GgufFile) -> dict[str, str]:
    """Chat templates by name; ``default`` is the file's main one."""
    prefix = "tokenizer.chat_template"
    found = {"default": file.metadata[prefix]} if isinstance(file.metadata.get(prefix), str) else {}
    for key, value in file.metadata.items():
        if key.startswith(prefix + ".") and isinstance(value, str):
            found[key[len(prefix) + 1 :]] = value
    return found


def gguf_specials(file: GgufFile) -> dict[str, str]:
    """``bos_token`` and the others by their text."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    known = tokens if isinstance(tokens, list) else []
    return {f"{ours}_token": text for theirs, ours in SPECIALS.items() if (text := _special(file, theirs, known))}


def _numbers(file: GgufFile, name: str, count: int, default: int) -> np.ndarray:
    values = file.metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        return np.full(count, default)
    if not isinstance(values, np.ndarray) or len(values) != count:
        raise TokenizerError(f"{file.path}: tokenizer.ggml.{name} does not hold one number per token")
    return values


def _special(file: GgufFile, name: str, tokens: list[Any]) -> str | None:
    at = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    if at is None:
        return None
    if not isinstance(at, int) or not 0 <= at < max(1, len(tokens)):
        raise TokenizerError(f"{file.path}: tokenizer.ggml.{name}_token_id is {shown(at)} of {len(tokens)} tokens")
    return str(tokens[at]) if tokens else None


def _vocabulary(file: GgufFile, tokens: list[str]) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for i, token in enumerate(tokens):
        # Two tokens of one text would leave one of them without a text of its own.
        if vocab.setdefault(token, i) != i:
            if not token or "\ufffd" in token:
                vocab[f"<unreadable {i}>"] = i
                continue
            raise TokenizerError(f"{file.path}: tokens {vocab[token]} and {i} are both {shown(token)}")
    return vocab


def _listed_merges(file: GgufFile, vocab: dict[str, int]) -> list[tuple[str, str]]:
    lines = file.metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, list):
        raise TokenizerError(f"{file.path}: a BPE tokenizer without merges")
    merges = []
    for line in lines:
        if not isinstance(line, str) or len(line) > 2 * MAX_TOKEN + 1 or line.count(" ") > MAX_SPACES:
            raise TokenizerError(
                f"{file.path}: merge {shown(line)} does not join two tokens of {MAX_TOKEN:,} characters"
            )
        # A piece may begin with the separator, or end with it: the split that gives known pieces is meant.
        at = line.find(" ", 1)
        while at > 0 and not (line[:at] in vocab and line[at + 1 :] in vocab):
            at = line.find(" ", at + 1)
        if at < 0:
            raise TokenizerError(f"{file.path}: merge {shown(line)} does not join two tokens")
        merges.append((line[:at], line[at + 1 :]))
    return merges


def scored_merges(vocab: dict[str, int], scores: np.ndarray, types: np.ndarray) -> list[tuple[str, str]]:
    """Merges of a SentencePiece BPE vocabulary: all ways to split a piece in two, in the order of the piece's score.

    SentencePiece takes the leftmost of equal scores, which merges of one piece's splits never compete for.
    """
    mergeable = {piece for piece, i in vocab.items() if types[i] in (NORMAL, USER_DEFINED, UNUSED)}
    normal = sorted(
        (i for piece, i in vocab.items() if types[i] == NORMAL and len(piece) > 1), key=lambda i: (-scores[i], i)
    )
    texts = {i: piece for piece, i in vocab.items()}
    return [
        (piece[:at], piece[at:])
        for piece in (texts[i] for i in normal)
        for at in range(1, len(piece))
        if piece[:at] in mergeable and piece[at:] in mergeable
    ]
