"""What crosses the engine's border: requests in, events out. Plain data only, so that either may leave the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from geminate.arrays import F32
from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.stats import Stats
from geminate.kv.prefix_tree import ContentSpan
from geminate.params import ResolvedSampling
from geminate.speculation.policy.base import Reason

FinishReason = Literal["stop", "length", "abort"]
Speculation = Literal["auto", "ngram"] | int
Source = Literal["mtp", "ngram", "forced"]
Reply = Literal["text", "chat", "tools"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """One request.

    Attributes:
        request_id: the client's name for it; unique among its open requests.
        prompt_ids: token ids, at least one.
        sampling: every parameter resolved, the seed included.
        speculation: draft length per round, ``auto`` or ``ngram``; see `geminate.params.parse_speculation`.
        choice: index of the (first) completion; separates the noise of several completions under one seed.
        n: completions of the same prompt, with indices ``choice`` .. ``choice + n - 1``.
        grammar: `geminate.grammar.state.Grammar.source` that every completion keeps to; None: free text.
        contents: what stands at positions whose token ids are only placeholders; prefixes are shared only where it is
            the same.
        emitted_ids: tokens that an earlier run of the same request has emitted; the completion goes on behind them
            and is, from there, the one that the earlier run would have given.
        conversation: name under which the KV cache is kept when the request ends; a later request with the same name
            starts from what its prompt shares with it. None: not kept.
        reply: where stop strings count: in all text, in a chat's content, or there with tool calls parsed.
        want_logits: whether events carry the raw logits of the emitted tokens.
        want_progress: whether events tell how far the prompt is, one for every pass that reads a part of it.
        prompt_logprobs: how many most likely tokens to report at every position of the prompt, beside the prompt's own
            token; None: no log-probabilities of the prompt. The prompt is then processed whole: no prefix is reused.
        client: whose it is, "" if nobody knows; clients share places and turns.
        timeout_s: seconds after which the request fails, waiting included; None: never.
    """

    request_id: str
    prompt_ids: Sequence[int]
    sampling: ResolvedSampling
    speculation: Speculation = "auto"
    choice: int = 0
    n: int = 1
    grammar: str | None = None
    contents: tuple[ContentSpan, ...] = ()
    emitted_ids: tuple[int, ...] = ()
    conversation: str | None = None
    reply: Reply = "text"
    want_logits: bool = False
    want_progress: bool = False
    prompt_logprobs: int | None = None
    client: str = ""
    timeout_s: float | None = None

    def continued(self, emitted_ids: Sequence[int]) -> EngineRequest:
        """The same request where ``emitted_ids`` (all of them, from the first on) are emitted already."""
        return replace(self, emitted_ids=tuple(emitted_ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptProgress:
    """How far a prompt is.

    Attributes:
        done, total: its tokens whose keys and values are there, and all.
        reused: how many of ``done`` were taken from a cache.
        seconds: since the sequence began, its time in the queue aside.
    """

    done: int
    total: int
    reused: int
    seconds: float


@dataclass(kw_only=True, slots=True)  # one every round: a frozen one takes three times as long to make
class EngineEvent:
    """What one completion did in one round. The last event of a completion has a finish_reason or an error.

    Attributes:
        position: absolute position of the first of ``token_ids``.
        token_ids: emitted tokens; the first ``accepted`` of them are draft tokens of ``source``.
        drafted: draft tokens of the round. reason: why there are none, of `geminate.speculation.policy.base.REASONS`.
        logprobs: one entry per token, if asked for.
        logits: float32 [tokens, vocab], raw, if asked for.
        prompt_logprobs: with a completion's first tokens, one entry per prompt token from the second on, if asked for.
        stop_token: the last of ``token_ids`` where it is an end-of-sequence or stop token: no part of the text.
        stats: with the finish_reason.
        error: what ended the request; finish_reason is ``abort`` then.
        progress: of the prompt, if asked for; such an event has no tokens and nothing else.
    """

    request_id: str
    choice: int = 0
    position: int = 0
    token_ids: tuple[int, ...] = ()
    drafted: int = 0
    accepted: int = 0
    source: Source = "mtp"
    reason: Reason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    logits: F32 | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    stats: Stats | None = None
    error: Exception | None = None
    progress: PromptProgress | None = None
