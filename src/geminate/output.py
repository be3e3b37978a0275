"""What `LLM` returns: whole completions, deltas of streamed ones, and how events become them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.messages import EngineEvent, EngineRequest, FinishReason
from geminate.engine.stats import Stats
from geminate.errors import ParameterError
from geminate.text.reply import ReplyDelta, make_reply
from geminate.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Output:
    """A finished completion.

    Attributes:
        prompt_token_ids: the prompt.
        token_ids: emitted tokens, an end-of-sequence token included.
        text: without special tokens and without the stop string; of a chat's reply the answer alone.
        finish_reason: ``stop``, ``length`` or ``abort``.
        seed: the noise's seed; pass it again for the same text.
        stats: what the completion took.
        logprobs: per emitted token, if asked for.
        reasoning: a chat reply's thought, apart from the answer.
        tool_calls: a chat reply's calls as OpenAI writes them: ``{"id": ..., "type": "function", "function": {"name":
            ..., "arguments": JSON text}}``. The arguments of a call that was cut off end where it was cut, so they are
            no JSON.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    seed: int
    stats: Stats
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        parts = [f"text={_short(self.text)}"]
        if self.reasoning:
            parts.append(f"reasoning={_short(self.reasoning)}")
        if self.tool_calls:
            parts.append(f"tool_calls={[call['function']['name'] for call in self.tool_calls]}")
        return f"Output({', '.join(parts)}, tokens={len(self.token_ids)}, finish_reason={self.finish_reason!r})"


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A part of a streamed completion.

    Attributes:
        text: text that is certain now; of a chat's reply the answer alone. token_ids: the tokens behind it.
        output: the whole completion, with the last delta only.
        reasoning: of a chat's thought, what is certain now; it comes before ``text`` where a delta has both.
    """

    text: str
    token_ids: list[int]
    output: Output | None = None
    reasoning: str = ""


class Completion:
    """Collects the events of one completion.

    Args:
        request: what was asked. tokenizer: the model's; without one there is no text.

    Raises:
        ParameterError: stop strings without a tokenizer.
    """

    def __init__(self, request: EngineRequest, tokenizer: Tokenizer | None) -> None:
        stops: Sequence[str] = request.sampling.stop
        if stops and tokenizer is None:
            raise ParameterError("stop strings need a tokenizer, and this model has none; use stop_token_ids")
        self._request = request
        self._reply = None
        if tokenizer is not None:
            self._reply = make_reply(request.reply, tokenizer, stops, request.prompt_ids)
        self._token_ids: list[int] = []
        self._deltas: list[ReplyDelta] = []
        self._logprobs: list[TokenLogprobs] = []

    def push(self, event: EngineEvent) -> Delta:
        """Take an event of a stream; what is new with it."""
        before = len(self._deltas)
        output = self.add(event)
        new = self._deltas[before:]
        return Delta(
            text=_joined(new, "content"),
            token_ids=list(event.token_ids),
            output=output,
            reasoning=_joined(new, "reasoning"),
        )

    def add(self, event: EngineEvent) -> Output | None:
        """Take an event; the whole completion, with its last one."""
        self._token_ids.extend(event.token_ids)
        if event.logprobs:
            self._logprobs.extend(event.logprobs)
        reply = self._reply
        if reply is not None:
            for token in event.token_ids if event.stop_token is None else event.token_ids[:-1]:
                self._deltas.extend(reply.push(token))
            if event.finish_reason is not None and not reply.stopped:
                self._deltas.extend(reply.flush())
        return self._output(event)

    def _output(self, event: EngineEvent) -> Output | None:
        if event.finish_reason is None or event.stats is None:
            return None
        # Bytes that the detokenizer held back can complete a stop string only at the end.
        stopped = self._reply is not None and self._reply.stopped
        return Output(
            prompt_token_ids=list(self._request.prompt_ids),
            token_ids=self._token_ids,
            text=_joined(self._deltas, "content"),
            finish_reason="stop" if stopped else event.finish_reason,
            seed=self._request.sampling.seed,
            stats=event.stats,
            logprobs=self._logprobs,
            reasoning=_joined(self._deltas, "reasoning"),
            tool_calls=_calls(self._deltas),
        )


def _joined(deltas: Sequence[ReplyDelta], kind: str) -> str:
    return "".join([delta.text for delta in deltas if delta.kind == kind])


def _calls(deltas: Sequence[ReplyDelta]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        if delta.kind != "tool_call":
            continue
        if delta.call_id is not None:
            function = {"name": delta.name, "arguments": ""}
            calls.append({"id": delta.call_id, "type": "function", "function": function})
        calls[-1]["function"]["arguments"] += delta.text
    return calls


def _short(text: str, most: int = 60) -> str:
    return json.dumps(text if len(text) <= most else f"{text[:most]}...", ensure_ascii=False)
