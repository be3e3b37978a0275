"""Engine events as the API reports them: text deltas, and tokens with their origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.messages import EngineEvent, EngineRequest, PromptProgress
from geminate.engine.stats import Stats
from geminate.llm import LLM
from geminate.speculation.policy.base import Reason
from geminate.text.reply import ReplyDelta, make_reply
from geminate.text.tokenizer import Tokenizer

Origin = Literal["target", "drafter", "copied", "forced"]
_ORIGINS: dict[str, Origin] = {"mtp": "drafter", "ngram": "copied", "forced": "forced"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkToken:
    """One emitted token with its origin and its own text, special tokens included (empty within a run of bytes)."""

    id: int
    origin: Origin
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The output of one choice in one round; the last has the finish reason, the stop string and the statistics.

    ``undrafted`` is why the round had no draft, of `geminate.speculation.policy.base.REASONS`; ``by_drafter``: it had
    one of the drafter's.
    One with ``progress`` has nothing else: it was made before the first token.
    """

    choice: int
    deltas: list[ReplyDelta]
    tokens: list[ChunkToken]
    drafted: int
    accepted: int
    undrafted: Reason | None = None
    by_drafter: bool = False
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None
    stats: Stats | None = None
    progress: PromptProgress | None = None


class ChunkReader:
    """Converts the engine events of one choice into chunks."""

    def __init__(self, llm: LLM, tokenizer: Tokenizer, request: EngineRequest) -> None:
        self._token_text = llm.token_text
        self._reply = make_reply(request.reply, tokenizer, request.sampling.stop, request.prompt_ids)

    def read(self, event: EngineEvent) -> Chunk:
        """Convert one engine event."""
        tokens, text, source = event.token_ids, self._token_text, _ORIGINS[event.source]
        made = [
            ChunkToken(
                id=token,
                origin=source if i < event.accepted else "target",
                text=text(token),
                logprobs=event.logprobs[i] if event.logprobs else None,
            )
            for i, token in enumerate(tokens)
        ]
        spoken = tokens if event.stop_token is None else tokens[:-1]
        deltas = [delta for token in spoken for delta in self._reply.push(token)]
        finish = event.finish_reason
        assert finish != "abort"
        if finish is not None and not self._reply.stopped:
            deltas.extend(self._reply.flush())
            if self._reply.stopped:
                finish = "stop"  # flushed bytes can still complete a stop string
        return Chunk(
            choice=event.choice,
            deltas=deltas,
            tokens=made,
            drafted=event.drafted,
            accepted=event.accepted,
            undrafted=event.reason,
            by_drafter=event.drafted > 0 and event.source == "mtp",
            prompt_logprobs=event.prompt_logprobs,
            finish_reason=finish,
            stop=None if finish is None else self._reply.matched,
            stats=event.stats,
            progress=event.progress,
        )


def merged(chunks: list[tuple[int, Chunk]]) -> list[tuple[int, Chunk]]:
    """Merge (choice number, chunk) pairs into one chunk per choice, keeping their order."""
    if len(chunks) == 1:
        return chunks
    by_choice: dict[int, list[Chunk]] = {}
    for number, chunk in chunks:
        by_choice.setdefault(number, []).append(chunk)
    return [
        (
            number,
            Chunk(
                choice=several[-1].choice,
                deltas=[delta for chunk in several for delta in chunk.deltas],
                tokens=[token for chunk in several for token in chunk.tokens],
                drafted=sum(chunk.drafted for chunk in several),
                accepted=sum(chunk.accepted for chunk in several),
                prompt_logprobs=several[0].prompt_logprobs,
                finish_reason=several[-1].finish_reason,
                stop=several[-1].stop,
                stats=several[-1].stats,
                progress=several[-1].progress,
            ),
        )
        for number, several in by_choice.items()
    ]
