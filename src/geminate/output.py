"""What `LLM` returns: whole completions, deltas of streamed ones, and how events become them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.messages import EngineEvent, EngineRequest, FinishReason
from geminate.engine.stats import Stats
from geminate.errors import ParameterError
from geminate.text.reply import PlainReply
from geminate.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Output:
    """A finished completion.

    Attributes:
        prompt_token_ids: the prompt.
        token_ids: emitted tokens, an end-of-sequence token included.
        text: without special tokens and without the stop string.
        finish_reason: ``stop``, ``length`` or ``abort``.
        seed: the noise's seed; pass it again for the same text.
        stats: what the completion took.
        logprobs: per emitted token, if asked for.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    seed: int
    stats: Stats
    logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A part of a streamed completion.

    Attributes:
        text: text that is certain now. token_ids: the tokens behind it.
        output: the whole completion, with the last delta only.
    """

    text: str
    token_ids: list[int]
    output: Output | None = None


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
        self._reply = PlainReply(tokenizer, stops) if tokenizer is not None else None
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprobs] = []

    def push(self, event: EngineEvent) -> Delta:
        """Take an event of a stream; what is new with it."""
        before = len(self._texts)
        output = self.add(event)
        return Delta(text="".join(self._texts[before:]), token_ids=list(event.token_ids), output=output)

    def add(self, event: EngineEvent) -> Output | None:
        """Take an event; the whole completion, with its last one."""
        self._token_ids.extend(event.token_ids)
        if event.logprobs:
            self._logprobs.extend(event.logprobs)
        reply = self._reply
        if reply is not None:
            for token in event.token_ids if event.stop_token is None else event.token_ids[:-1]:
                for delta in reply.push(token):
                    self._texts.append(delta.text)
            if event.finish_reason is not None and not reply.stopped:
                self._texts.extend([delta.text for delta in reply.flush()])
        return self._output(event)

    def _output(self, event: EngineEvent) -> Output | None:
        if event.finish_reason is None or event.stats is None:
            return None
        # Bytes that the detokenizer held back can complete a stop string only at the end.
        stopped = self._reply is not None and self._reply.stopped
        return Output(
            prompt_token_ids=list(self._request.prompt_ids),
            token_ids=self._token_ids,
            text="".join(self._texts),
            finish_reason="stop" if stopped else event.finish_reason,
            seed=self._request.sampling.seed,
            stats=event.stats,
            logprobs=self._logprobs,
        )
