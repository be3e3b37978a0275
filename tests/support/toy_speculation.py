"""Speculative decoding over a toy model of eight tokens: the project's draw and verification, any drafter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geminate.arrays import F32
from geminate.decoding.sampling import TokenCounts, distribution, draw
from geminate.params import ResolvedSampling
from geminate.speculation.verify import verify
from support import textbook

VOCAB = 8
PROMPT = (3, 1)


class ToyModel:
    """A second-order Markov chain: logits float32 [8] from the last two tokens."""

    def __init__(self, seed: int, spread: float = 1.5) -> None:
        generator = np.random.default_rng(seed)
        self.table = (generator.standard_normal((VOCAB, VOCAB, VOCAB)) * spread).astype(np.float32)

    def logits(self, tokens: Sequence[int]) -> F32:
        """float32 [8] after ``tokens`` (at least two)."""
        row: F32 = self.table[tokens[-2], tokens[-1]]
        return row

    def near(self, seed: int, noise: float) -> ToyModel:
        """A model that mostly agrees with this one: what a drafter is."""
        other = ToyModel(seed, noise)
        other.table += self.table
        return other


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a verification rule sees. ``rows`` float32 [k + 1, 8]; ``start`` is row 0's absolute position."""

    draft: tuple[int, ...]
    rows: list[F32]
    draft_rows: list[F32]
    sampling: ResolvedSampling
    counts: TokenCounts
    start: int


Rule = Callable[[Round], Sequence[int]]
Drafter = Callable[[Sequence[int], int, ResolvedSampling], tuple[int, ...]]


def project_rule(r: Round) -> Sequence[int]:
    """What the engine does."""

    def draw_row(row: int) -> int:
        law = distribution(r.rows[row], r.sampling, r.counts.extended(r.draft[:row]))
        return draw(law, r.sampling.seed, 0, r.start + row)

    return verify(r.draft, draw_row).tokens


def generate(
    model: ToyModel,
    sampling: ResolvedSampling,
    length: int,
    *,
    drafter: Drafter | None = None,
    draft_model: ToyModel | None = None,
    k: int = 0,
    rule: Rule = project_rule,
) -> tuple[int, ...]:
    """The first ``length`` tokens after `PROMPT`; no drafter is plain decoding."""
    tokens = list(PROMPT)
    counts = TokenCounts(PROMPT, sampling)
    q = draft_model or model
    while len(tokens) < len(PROMPT) + length:
        draft = drafter(tokens, k, sampling) if drafter is not None else ()
        prefixes = [[*tokens, *draft[:i]] for i in range(len(draft) + 1)]
        result = rule(
            Round(
                draft=draft,
                rows=[model.logits(p) for p in prefixes],
                draft_rows=[q.logits(p) for p in prefixes],
                sampling=sampling,
                counts=counts,
                start=len(tokens),
            )
        )
        for token in result:
            tokens.append(token)
            counts.append(token)
    return tuple(tokens[len(PROMPT) : len(PROMPT) + length])


def coupled(model: ToyModel) -> Drafter:
    """Guesses with its own logits and the target's noise."""

    def drafter(tokens: Sequence[int], k: int, sampling: ResolvedSampling) -> tuple[int, ...]:
        seen = list(tokens)
        plain = replace(sampling, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
        counts = TokenCounts((), plain)
        for _ in range(k):
            law = distribution(model.logits(seen), plain, counts)
            seen.append(draw(law, sampling.seed, 0, len(seen)))
        return tuple(seen[len(tokens) :])

    return drafter


def argmax(model: ToyModel) -> Drafter:
    """Guesses the likeliest token."""

    def drafter(tokens: Sequence[int], k: int, sampling: ResolvedSampling) -> tuple[int, ...]:
        seen = list(tokens)
        for _ in range(k):
            seen.append(int(np.argmax(model.logits(seen))))
        return tuple(seen[len(tokens) :])

    return drafter


def clairvoyant(model: ToyModel, *, wrong_from: int) -> Drafter:
    """Knows what will be drawn; right before guess ``wrong_from`` (0: never right), wrong from there."""

    def drafter(tokens: Sequence[int], k: int, sampling: ResolvedSampling) -> tuple[int, ...]:
        seen = list(tokens)
        for i in range(k):
            counts = TokenCounts(PROMPT, sampling)
            for token in seen[len(PROMPT) :]:
                counts.append(token)
            law = distribution(model.logits(seen), sampling, counts)
            right = draw(law, sampling.seed, 0, len(seen))
            seen.append((right + 1) % VOCAB if i >= wrong_from else right)
        return tuple(seen[len(tokens) :])

    return drafter


def erratic(seed: int) -> Drafter:
    """Guesses anything, and a different number of tokens every time."""
    generator = np.random.default_rng(seed)

    def drafter(tokens: Sequence[int], k: int, sampling: ResolvedSampling) -> tuple[int, ...]:
        length = int(generator.integers(0, k + 1))
        return tuple(int(t) for t in generator.integers(0, VOCAB, length))

    return drafter


def sequence_law(model: ToyModel, sampling: ResolvedSampling, length: int) -> dict[tuple[int, ...], float]:
    """Exact probability of every sequence of ``length`` tokens, by the textbook."""
    laws: dict[tuple[int, ...], dict[int, float]] = {}
    result: dict[tuple[int, ...], float] = {}
    for sequence in itertools.product(range(VOCAB), repeat=length):
        p = 1.0
        for i, token in enumerate(sequence):
            prefix = sequence[:i]
            if prefix not in laws:
                row = model.logits([*PROMPT, *prefix])
                laws[prefix] = textbook.law(row.tolist(), sampling, PROMPT, prefix)
            p *= laws[prefix].get(token, 0.0)
        result[sequence] = p
    return result
