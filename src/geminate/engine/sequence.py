"""One request on its way: its tokens, cache, draft-length policy, statistics and end conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from geminate.arrays import F32
from geminate.decoding.constraint import Constraint
from geminate.decoding.sampling import TokenCounts, TokenLogprobs, draft_rule
from geminate.kv.cache import KVCache
from geminate.kv.memory import Lease
from geminate.params import ResolvedSampling
from geminate.speculation.policy import Policy

FinishReason = Literal["stop", "length", "abort"]


@dataclass
class Stats:
    """What a generation did. Times in seconds.

    Attributes:
        prompt_tokens: tokens of the prompt; ``reused_tokens`` of them were still in the cache.
        rounds: verification passes, the first (which ends the prefill) included.
        drafted, accepted: guesses made, guesses that were emitted.
        accepted_per_position: how often guess i (from 0) was emitted; drafted_per_position: how often tried.
        draft_lengths: draft length -> rounds with it.
        copied, copied_accepted: how many of the guesses made and emitted were n-gram drafts.
        prefill_s: until the first token's pass is done; decode_s: from there.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    drafted_per_position: list[int] = field(default_factory=list)
    draft_lengths: dict[int, int] = field(default_factory=dict)
    copied: int = 0
    copied_accepted: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    _decoding: bool = field(default=False, repr=False)

    @property
    def acceptance_length(self) -> float:
        """Mean tokens a round, 1 + accepted / rounds."""
        return 1.0 + self.accepted / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first over the time they took."""
        return (self.generated_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0

    def count_time(self, seconds: float) -> None:
        """Add a step's time: to the prefill up to and including the first round, then to decoding."""
        if not self._decoding:
            self.prefill_s += seconds
            self._decoding = self.rounds == 1
        else:
            self.decode_s += seconds

    def count_round(self, drafted: int, accepted: int, *, copied: bool = False) -> None:
        """Add one verification pass; ``copied``: of an n-gram draft."""
        self.rounds += 1
        if copied:
            self.copied += drafted
            self.copied_accepted += accepted
        self.drafted += drafted
        self.accepted += accepted
        self.draft_lengths[drafted] = self.draft_lengths.get(drafted, 0) + 1
        while len(self.accepted_per_position) < drafted:
            self.accepted_per_position.append(0)
            self.drafted_per_position.append(0)
        for i in range(drafted):
            self.drafted_per_position[i] += 1
            self.accepted_per_position[i] += i < accepted


class Sequence:
    """A request inside the engine. Made by `Engine.add`; read by whoever holds it.

    Attributes:
        token_ids: prompt and answer; ``token_ids[cache.length:]`` is not processed yet.
        prompt_length: how many of them are the prompt.
        logprobs: one entry per emitted token, if asked for.
        finish_reason: None while waiting or running.
        cache: set by `begin`; a waiting sequence has none.
        lease: where the cache came from, if its memory is bounded.
        error: what ended the sequence, when something of its own did; finish_reason is ``abort`` then.
    """

    cache: KVCache

    def __init__(
        self,
        prompt: list[int],
        sampling: ResolvedSampling,
        *,
        cache: KVCache | None,
        max_context: int,
        policy: Policy,
        eos_ids: frozenset[int],
        choice: int = 0,
        on_token: Callable[[int], bool] | None = None,
        on_logits: Callable[[int, F32], None] | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.token_ids = list(prompt)
        self.prompt_length = len(prompt)
        self.sampling = sampling
        self.max_context = max_context
        self.policy = policy
        self.eos_ids = eos_ids
        self.choice = choice
        self.on_token = on_token
        self.on_logits = on_logits
        self.constraint = constraint
        self.counts = TokenCounts(prompt, sampling)
        self.rule = draft_rule(sampling, choice)
        self.hidden: F32 | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.lease: Lease | None = None
        self.stats = Stats(prompt_tokens=len(prompt))
        self.begun = False
        if cache is not None:
            self.begin(cache)

    def begin(self, cache: KVCache, lease: Lease | None = None) -> None:
        """Take a cache, which may hold a strict prefix of the prompt."""
        self.cache, self.lease, self.begun = cache, lease, True
        self.stats.reused_tokens = cache.length

    @property
    def pending(self) -> list[int]:
        """Tokens that the target has not processed; at least one while running."""
        return self.token_ids[self.cache.length :]

    @property
    def output_ids(self) -> list[int]:
        """Tokens emitted so far."""
        return self.token_ids[self.prompt_length :]

    @property
    def room(self) -> int:
        """Tokens that may still be emitted: max_tokens and the context, whichever ends first."""
        left = self.sampling.max_tokens - (len(self.token_ids) - self.prompt_length)
        return min(left, self.max_context - len(self.token_ids))

    @property
    def decoding(self) -> bool:
        """Whether only the last token is unprocessed, and the drafter's input is known."""
        return self.hidden is not None and len(self.token_ids) - self.cache.length == 1

    def end_after(self, token: int) -> FinishReason | None:
        """Whether generation ends with ``token``, which was just appended to ``token_ids``."""
        if token in self.sampling.stop_token_ids:
            return "stop"
        if token in self.eos_ids and not self.sampling.ignore_eos:
            return "stop"
        if self.on_token is not None and self.on_token(token):
            return "stop"
        return "length" if self.room <= 0 else None
