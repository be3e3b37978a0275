"""What a server says of itself when it is ready, and of settings that it cannot follow to the letter."""

from __future__ import annotations

import bisect
from typing import Any

from geminate.errors import ParameterError
from geminate.kv.budget import KVBudget
from geminate.llm import LLM
from geminate.server.settings import Settings

DEFAULT_KV_POSITIONS = 4096
"""The default KV-cache budget holds `max_running` sequences of this many positions."""
LEAST_REQUEST = 64
"""Tokens of the smallest request that is worth a server: a turn's marks and a sentence or two."""


def kv_budget(llm: LLM, settings: Settings) -> KVBudget:
    """The KV-cache budget of these settings.

    Raises:
        ParameterError: ``kv_bytes`` holds no request of `LEAST_REQUEST` tokens.
    """
    memory = KVBudget(llm.pair.target.kv, limit=0, keep_prefixes=settings.prefix_cache)
    context = _context(llm, settings)
    usual = min(DEFAULT_KV_POSITIONS, llm.config.max_position_embeddings)
    memory.limit = settings.max_running * memory.need(usual) if settings.kv_bytes is None else settings.kv_bytes
    least = memory.need(min(LEAST_REQUEST, context))
    if memory.limit < least:
        raise ParameterError(
            f"kv_bytes {memory.limit:,} holds no request: one of {min(LEAST_REQUEST, context)} tokens takes {least:,} "
            f"bytes, one of {context:,} takes {memory.need(context):,}"
        )
    return memory


def _context(llm: LLM, settings: Settings) -> int:
    most = llm.config.max_position_embeddings
    return min(most, settings.max_context or most)


def longest_request(llm: LLM, settings: Settings, memory: KVBudget) -> int:
    """Tokens of the longest request that context and KV cache hold."""
    context = _context(llm, settings)
    lengths = range(1, context + 1)
    return bisect.bisect_right(lengths, memory.limit, key=memory.need)


def clamped(llm: LLM, settings: Settings, memory: KVBudget) -> list[str]:
    """Settings that the model or the memory does not allow in full, as sentences."""
    remarks = []
    most = llm.config.max_position_embeddings
    if settings.max_context is not None and settings.max_context > most:
        remarks.append(f"max_context {settings.max_context:,} is more than the model has: it is {most:,}")
    context, longest = _context(llm, settings), longest_request(llm, settings, memory)
    if longest < context:
        remarks.append(
            f"kv_bytes {memory.limit:,} holds requests of at most {longest:,} tokens, and the context is {context:,}: "
            "longer ones are refused"
        )
    return remarks


def facts(llm: LLM, settings: Settings, memory: KVBudget, *, url: str, keys: int) -> dict[str, Any]:
    """Fields of the log line that says the server is ready."""
    pair = llm.pair
    return {
        "url": url,
        "drafter": None if pair.located.drafter is None else str(pair.located.drafter),
        "weights": pair.target.store.format,
        "isa": pair.target.backend.isa,
        "threads": pair.target.backend.threads,
        "kv": pair.target.kv_format,
        "kv_bytes": memory.limit,
        "max_running": settings.max_running,
        "longest_request": longest_request(llm, settings, memory),
        "api_keys": keys,
    }


def sentences(facts: dict[str, Any], llm: LLM, *, page: bool) -> list[str]:
    """The same for people."""
    keys, url = facts["api_keys"], facts["url"]
    page_at = f"{url}/ is the page, " if page else ""
    return [
        f"{page_at}{url}/v1 the base URL for clients",
        llm.pair.located.drafter_note,
        f"weights {facts['weights']}, {facts['threads']} threads, kernels {facts['isa']}",
        f"KV cache {facts['kv']}, {facts['kv_bytes'] / 1e6:,.0f} MB: up to {facts['max_running']} requests at once, "
        f"the longest of {facts['longest_request']:,} tokens",
        f"API keys: {keys}" if keys else "API keys: off, whoever can reach this address can use it",
    ]
