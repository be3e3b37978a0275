"""Tokens in responses: log-probabilities in OpenAI's shapes, traces with every token's origin, progress of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geminate.decoding.sampling import TokenLogprobs
from geminate.server.chunks import Chunk, ChunkToken
from geminate.server.state import Model
from geminate.text.detokenizer import Detokenizer


def token_bytes(model: Model, token: int) -> list[int]:
    """A token's bytes; when several tokens make up one character, their bytes together are its UTF-8."""
    piece = model.tokenizer.piece(token)
    if piece is None:
        return []
    return [piece] if isinstance(piece, int) else list(piece.encode())


def _entry(model: Model, token: int, logprob: float) -> dict[str, Any]:
    return {"token": model.llm.token_text(token), "logprob": logprob, "bytes": token_bytes(model, token)}


def chat_logprobs(model: Model, tokens: Sequence[ChunkToken]) -> list[dict[str, Any]]:
    """``logprobs.content``: one entry per token, special tokens included."""
    made = []
    for token in tokens:
        if token.logprobs is not None:
            entry = _entry(model, token.id, token.logprobs.logprob)
            entry["top_logprobs"] = [_entry(model, id, logprob) for id, logprob in token.logprobs.top]
            made.append(entry)
    return made


class CompletionLogprobs:
    """``logprobs`` of ``/v1/completions`` for one choice, built up chunk by chunk."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._detokenizer = Detokenizer(model.tokenizer)
        self._offset = 0

    def prompt(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The fields for an echoed prompt; nothing predicts its first token."""
        text = self._model.llm.token_text
        made = self.push([])
        for id, entry in zip(ids, [None, *logprobs], strict=True):
            made["tokens"].append(text(id))
            made["token_logprobs"].append(None if entry is None else entry.logprob)
            made["top_logprobs"].append(None if entry is None else {text(id): value for id, value in entry.top})
            made["text_offset"].append(self._offset)
            self._offset += len(self._detokenizer.push(id))
        self._offset += len(self._detokenizer.flush())
        return made

    def push(self, tokens: Sequence[ChunkToken]) -> dict[str, Any]:
        """The fields for these tokens; offsets count characters from the start of the choice's text."""
        text = self._model.llm.token_text
        made: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            if token.logprobs is None:
                continue
            made["tokens"].append(text(token.id))
            made["token_logprobs"].append(token.logprobs.logprob)
            made["top_logprobs"].append({text(id): logprob for id, logprob in token.logprobs.top})
            made["text_offset"].append(self._offset)
            self._offset += len(self._detokenizer.push(token.id))
        return made


def trace(choice: int, chunk: Chunk) -> dict[str, Any]:
    """One round of the trace, for the field ``geminate``."""
    tokens = [{"id": t.id, "text": t.text, "origin": t.origin} for t in chunk.tokens]
    counts = {"drafted": chunk.drafted, "accepted": chunk.accepted, "undrafted": chunk.undrafted}
    return {"choice": choice, "tokens": tokens, **counts}


def prompt_progress(choice: int, chunk: Chunk, *, traced: bool) -> dict[str, Any] | None:
    """The fields of a chunk that tells how far the prompt is, in llama.cpp's names; None for one with tokens."""
    at = chunk.progress
    if at is None:
        return None
    milliseconds = round(at.seconds * 1000, 3)
    fields = {"total": at.total, "cache": at.reused, "processed": at.done, "time_ms": milliseconds}
    more: dict[str, Any] = {"prompt_progress": fields}
    if traced:
        more["geminate"] = {"choice": choice, "prompt": {"read": at.done, "of": at.total}}
    return more
