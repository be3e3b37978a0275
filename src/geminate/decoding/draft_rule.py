"""How a drafter picks its draft tokens, and when a draft ends early."""

from __future__ import annotations

from dataclasses import dataclass

from geminate.arrays import F32


@dataclass(frozen=True, kw_only=True)
class DraftRule:
    """How the drafter picks its guess from its own logits; it never affects what is emitted.

    temperature 0 is argmax. Otherwise: logits / temperature, the ``top_k`` largest (0: backend's
    limit of 64), then top_p and min_p, then argmax of (log q + Gumbel noise of (seed, choice,
    position of the guessed token, token id)): the noise the target will use at that position.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0


STOP_BINS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftStop:
    """When a draft ends before k guesses.

    After guess j with probability q: survival *= calibration[bin of q], bins of equal width over 0..1; guess
    j + 1 is made only if survival * ahead[j + 1] >= need[j + 1].

    Attributes:
        calibration: float32 [STOP_BINS], chance that a guess of this confidence is accepted.
        ahead: float32 [>= k], chance that guess j is accepted before it is known.
        need: float32 [>= k], least survival that pays for guess j.
    """

    calibration: F32
    ahead: F32
    need: F32


def confidence_bin(confidence: float) -> int:
    """Index into `DraftStop.calibration`; NaN counts as 0."""
    return min(int(confidence * STOP_BINS), STOP_BINS - 1) if confidence > 0 else 0
