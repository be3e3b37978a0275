"""What `LLM` gives back: whole generations, pieces of streamed ones, and the text side of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.sequence import FinishReason, Stats
from geminate.engine.sequence import Sequence as EngineSequence
from geminate.errors import ParameterError
from geminate.text.reply import PlainReply, ReplyDelta
from geminate.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Output:
    """A finished generation.

    Attributes:
        token_ids: emitted tokens, an end-of-sequence token included. text: without special tokens and
            without the stop string.
        finish_reason: ``stop``, ``length`` or ``abort``.
        seed: what seeded the noise; pass it again for the same text.
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
    """A piece of a streamed generation: certain text, the tokens behind it, and at the end the whole."""

    text: str
    token_ids: list[int]
    output: Output | None = None


class TextSide:
    """Detokenizer and stop strings of one sequence; told every token in order."""

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str]) -> None:
        if stops and tokenizer is None:
            raise ParameterError("stop strings need a tokenizer, and this model has none; use stop_token_ids")
        self._reply = PlainReply(tokenizer, stops) if tokenizer is not None else None
        self._fresh: list[str] = []
        self.text = ""

    def on_token(self, token: int) -> bool:
        """Take a token; True when a stop string is complete."""
        if self._reply is None:
            return False
        self._add(self._reply.push(token))
        return self._reply.stopped

    def _add(self, deltas: list[ReplyDelta]) -> None:
        text = "".join([delta.text for delta in deltas])
        self._fresh.append(text)
        self.text += text

    def finish(self, sequence: EngineSequence) -> None:
        """Let go of what was held back; held bytes can complete a stop string only now."""
        if self._reply is not None and not self._reply.stopped:
            self._add(self._reply.flush())
            if self._reply.stopped:
                sequence.finish_reason = "stop"

    def take(self) -> str:
        """Text that became certain since the last call."""
        fresh, self._fresh = "".join(self._fresh), []
        return fresh

    def output(self, sequence: EngineSequence) -> Output:
        """The generation that ``sequence``, which has ended, was."""
        return Output(
            prompt_token_ids=sequence.token_ids[: sequence.prompt_length],
            token_ids=sequence.output_ids,
            text=self.text,
            finish_reason=sequence.finish_reason or "abort",
            seed=sequence.sampling.seed,
            stats=sequence.stats,
            logprobs=sequence.logprobs,
        )
