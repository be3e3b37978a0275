"""What draws the tokens of a pass: the protocol, and the reference implementation in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32
from geminate.decoding.sampling import TokenCounts, TokenLogprobs, distribution, draw, token_logprobs
from geminate.params import ResolvedSampling


class SequenceSampler:
    """Draws the tokens of one sequence, one row at a time.

    Args:
        prompt: token ids of the prompt, for penalties.
    """

    def __init__(self, sampling: ResolvedSampling, choice: int, prompt: Iterable[int]) -> None:
        self.sampling, self.choice = sampling, choice
        self.counts = TokenCounts(prompt, sampling)

    def append(self, token: int) -> None:
        """Count one emitted token."""
        self.counts.append(token)

    def draw(
        self, logits: F32, position: int, drafts: tuple[int, ...] = (), allowed: NDArray[np.bool_] | None = None
    ) -> int:
        """The token at absolute ``position``, from logits float32 [vocab] of the row before.

        Args:
            drafts: what stands between the emitted tokens and ``position``.
            allowed: bool [vocab] of a grammar; None allows every token.

        Raises:
            GeminateError, ParameterError: as `distribution`.
        """
        p = distribution(logits, self.sampling, self.counts.extended(drafts), allowed)
        return draw(p, self.sampling.seed, self.choice, position)


@dataclass(kw_only=True, slots=True)  # one every round: a frozen one takes three times as long to make
class RowsToDraw:
    """Rows of a pass that one sequence draws from: of its last token, then of each draft token.

    Attributes:
        first: index of the first of them among the pass's logits.
        position: absolute position of the token that the first row predicts.
        drafts: k draft tokens; there are k + 1 rows.
    """

    sampler: SequenceSampler
    first: int
    position: int
    drafts: tuple[int, ...]


class Sampler(Protocol):
    """Draws the tokens of many sequences."""

    def sequence(self, sampling: ResolvedSampling, choice: int, prompt: Sequence[int]) -> SequenceSampler:
        """What draws the tokens of one sequence."""
        ...

    def draw_ahead(self, logits: F32, parts: Sequence[RowsToDraw]) -> list[list[int]]:
        """The target's draws at rows of a pass, as if all drafts were accepted.

        Args:
            logits: float32 [rows, vocab].

        Returns:
            for each part the tokens of its first rows. It may be fewer than the part's rows, and -1 stands for a row
            that cannot be drawn from: `SequenceSampler.draw` gives these, or their error.
        """
        ...

    def logprobs(self, logits: F32, tokens: Sequence[int], top: int) -> tuple[TokenLogprobs, ...]:
        """`token_logprobs` of rows float32 [len(tokens), vocab].

        Raises:
            GeminateError: logits that are not finite.
        """
        ...


class ReferenceSampler:
    """A `Sampler` in NumPy, a row at a time and only as far as verification needs them."""

    def sequence(self, sampling: ResolvedSampling, choice: int, prompt: Sequence[int]) -> SequenceSampler:
        """See `Sampler`."""
        return SequenceSampler(sampling, choice, prompt)

    def draw_ahead(self, logits: F32, parts: Sequence[RowsToDraw]) -> list[list[int]]:
        """See `Sampler`."""
        return [[] for _ in parts]

    def logprobs(self, logits: F32, tokens: Sequence[int], top: int) -> tuple[TokenLogprobs, ...]:
        """See `Sampler`."""
        return tuple(token_logprobs(row, token, top) for row, token in zip(logits, tokens, strict=True))
