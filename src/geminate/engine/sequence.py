"""One completion on its way through the engine: its tokens, cache, policy, statistics and end conditions."""

from __future__ import annotations

import time
from collections.abc import Callable

from geminate.arrays import F32
from geminate.decoding.constraint import Constraint
from geminate.decoding.sampler import SequenceSampler
from geminate.decoding.sampling import TokenLogprobs, draft_rule
from geminate.engine.messages import EngineRequest, FinishReason, PromptProgress
from geminate.engine.stats import Stats
from geminate.kv.budget import Lease
from geminate.kv.prefix_store import StoredPrompt
from geminate.kv.store import KVStore
from geminate.speculation.policy import Policy

StopCheck = Callable[[int], bool]


class Sequence:
    """A completion inside the engine; made by `Engine.add`.

    Args:
        request: what it completes. choice: index of this completion. sampler: draws its tokens.
        max_context: positions it may come to hold.
        stop_check: called with every emitted token in order; True when a stop string is complete.
        arrived: when it was queued, on the scheduler's clock.

    Attributes:
        token_ids: prompt and completion; ``token_ids[cache.length:]`` is not processed yet.
        finish_reason: None while waiting or running. stop_token: the token that ended it, if one did.
        cache: set by `begin`; a waiting sequence has none.
        lease: where the cache came from, if its memory is bounded.
        only_largest: whether its tokens are the largest logits, and nobody sees others.
        prompt_logprobs: of the prompt so far, if asked for, until they are reported.
        stored: its prompt's place in the prefix store, as long as there may be blocks to add.
        blocked_since: when it could have begun for the first time, but for its memory.
        reading: whether it waits for blocks of the prefix store.
    """

    cache: KVStore

    def __init__(
        self,
        request: EngineRequest,
        *,
        choice: int,
        sampler: SequenceSampler,
        max_context: int,
        policy: Policy,
        eos_ids: frozenset[int],
        constraint: Constraint | None = None,
        stop_check: StopCheck | None = None,
        arrived: float = 0.0,
    ) -> None:
        self.request = request
        self.choice = choice
        self.sampling = request.sampling
        self.prompt_length = len(request.prompt_ids)
        self.token_ids = [*request.prompt_ids, *request.emitted_ids]
        self.max_context = max_context
        self.policy = policy
        self.eos_ids = eos_ids
        self.constraint = constraint
        self.stop_check = stop_check
        self.arrived = arrived
        self.sampler = sampler
        self.rule = draft_rule(self.sampling, choice)
        self.only_largest = constraint is None and self.sampling.only_largest and not request.want_logits
        self.hidden: F32 | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_token: int | None = None
        self.lease: Lease | None = None
        self.stored: StoredPrompt | None = None
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.stats = Stats(prompt_tokens=self.prompt_length)
        self.begun = False
        self._began_at = 0.0
        self.blocked_since: float | None = None
        self.reading = False
        for token in request.emitted_ids:
            sampler.append(token)
            if constraint is not None:
                constraint.advance(token)
            if stop_check is not None:
                stop_check(token)
        if constraint is not None:
            constraint.prepare()

    def begin(self, cache: KVStore, lease: Lease | None = None) -> None:
        """Take a cache, which may hold a strict prefix of the tokens."""
        self.cache, self.lease, self.begun = cache, lease, True
        self.stats.reused_tokens = cache.length
        self._began_at = time.perf_counter()

    def progress(self) -> PromptProgress:
        """How far the prompt is, of a sequence that has begun."""
        return PromptProgress(
            done=min(self.cache.length, self.prompt_length),
            total=self.prompt_length,
            reused=self.stats.reused_tokens,
            seconds=time.perf_counter() - self._began_at,
        )

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt are wanted."""
        return self.request.prompt_logprobs is not None

    @property
    def pending(self) -> list[int]:
        """Tokens that the target has not processed; at least one while running."""
        return self.token_ids[self.cache.length :]

    @property
    def output_ids(self) -> list[int]:
        """Tokens emitted so far, those of an earlier run included."""
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

    @property
    def mask_ready(self) -> bool:
        """Whether what its grammar allows next is known, or will be by the end of a pass."""
        return self.constraint is None or self.constraint.ready()

    @property
    def ready(self) -> bool:
        """Whether a pass can take it further: not while its last token alone is left and its mask is late."""
        return len(self.token_ids) - self.cache.length > 1 or self.mask_ready

    def end_after(self, token: int) -> FinishReason | None:
        """Whether the completion ends with ``token``, which was just appended to ``token_ids``."""
        if token in self.sampling.stop_token_ids or (token in self.eos_ids and not self.sampling.ignore_eos):
            self.stop_token = token
            return "stop"
        if self.stop_check is not None and self.stop_check(token):
            return "stop"
        return "length" if self.room <= 0 else None
