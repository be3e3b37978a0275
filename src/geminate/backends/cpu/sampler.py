"""Tokens drawn by the native sampler: the same, bit for bit, as those of `geminate.decoding.sampling`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32, I64
from geminate.decoding.sampler import RowsToDraw, SequenceSampler
from geminate.decoding.sampling import TokenLogprobs, token_logprobs
from geminate.elementary import log_scalar
from geminate.params import ResolvedSampling

if TYPE_CHECKING:
    import geminate._native as _native

_FAR = 2**31  # in the place of token ids that no vocabulary has


class NativeSequenceSampler(SequenceSampler):
    """A `SequenceSampler` that leaves to NumPy only the rows that cannot be drawn from, for their errors.

    Attributes:
        rule: the parameters, as the native sampler takes them.
    """

    def __init__(
        self,
        sampling: ResolvedSampling,
        choice: int,
        prompt: Sequence[int],
        sampler: _native.Sampler,
        rule: _native.SamplingRule,
    ) -> None:
        super().__init__(sampling, choice, prompt)
        self.rule = rule
        self._sampler = sampler

    def counted(self, drafts: tuple[int, ...] = ()) -> tuple[I64, ...]:
        """Distinct tokens and their occurrences in the output, if a penalty needs them."""
        return self.counts.extended(drafts).arrays() if self.sampling.counts_tokens else ()

    def draw(
        self, logits: F32, position: int, drafts: tuple[int, ...] = (), allowed: NDArray[np.bool_] | None = None
    ) -> int:
        """See `SequenceSampler`."""
        counted = self.counted(drafts)
        token = self._sampler.draw(logits[None], (self.rule,), (0,), (position,), ((),), counted, allowed)[0][0]
        return token if token >= 0 else super().draw(logits, position, drafts, allowed)


class NativeSampler:
    """See `geminate.decoding.sampler.Sampler`.

    Args:
        sampler: of the backend's threads and instruction set.
        make_rule: the class of rules.
    """

    def __init__(self, sampler: _native.Sampler, make_rule: type[_native.SamplingRule]) -> None:
        self._sampler = sampler
        self._make_rule = make_rule

    def sequence(self, sampling: ResolvedSampling, choice: int, prompt: Sequence[int]) -> NativeSequenceSampler:
        """See `Sampler`."""
        rule = self._make_rule(
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            log_scalar(sampling.min_p) if sampling.min_p > 0 else -math.inf,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            [min(token, _FAR) for token, _ in sampling.logit_bias],
            [amount for _, amount in sampling.logit_bias],
            sampling.seed,
            choice,
        )
        return NativeSequenceSampler(sampling, choice, prompt, self._sampler, rule)

    def draw_ahead(self, logits: F32, parts: Sequence[RowsToDraw]) -> list[list[int]]:
        """See `Sampler`; the parts' samplers must be this one's."""
        counted: list[I64] = []
        rules: list[_native.SamplingRule] = []
        for part in parts:
            assert isinstance(part.sampler, NativeSequenceSampler)
            rules.append(part.sampler.rule)
            counted += part.sampler.counted()
        firsts, positions = [part.first for part in parts], [part.position for part in parts]
        return self._sampler.draw(logits, rules, firsts, positions, [part.drafts for part in parts], counted, None)

    def logprobs(self, logits: F32, tokens: Sequence[int], top: int) -> tuple[TokenLogprobs, ...]:
        """See `Sampler`."""
        rows, top = len(tokens), min(top, logits.shape[1])
        chosen = np.empty(rows)
        ids, values = np.empty((rows, top), dtype=np.int32), np.empty((rows, top))
        if not self._sampler.logprobs(logits, tokens, top, chosen, ids, values):
            return tuple(token_logprobs(row, token, top) for row, token in zip(logits, tokens, strict=True))
        return tuple(
            TokenLogprobs(token=token, logprob=own, top=tuple(zip(best, logps, strict=True)))
            for token, own, best, logps in zip(tokens, chosen.tolist(), ids.tolist(), values.tolist(), strict=True)
        )
