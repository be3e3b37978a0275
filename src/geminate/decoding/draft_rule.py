"""How a drafter picks its draft tokens, and when a draft ends early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geminate.arrays import F32, I32
from geminate.decoding.noise import gumbel
from geminate.decoding.truncation import truncated

DRAFT_TOP_K = 64  # candidates that a noisy choice considers where the rule sets no top_k


@dataclass(frozen=True, kw_only=True)
class DraftRule:
    """How the drafter picks a draft token from its own logits; it never affects what is emitted.

    temperature 0 is argmax. Otherwise: logits / temperature, the ``top_k`` largest (0: `DRAFT_TOP_K`), then top_p and
    min_p, then argmax of (log q + Gumbel noise of (seed, choice, position of the draft token, token id)): the noise the
    target will use at that position. Ties go to the first candidate; so does everything if a logit is not finite.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0


def choose_draft_token(candidates: I32, logits: F32, rule: DraftRule, position: int) -> int:
    """Index into ``candidates`` of the draft token for ``position``; see `DraftRule`."""
    if not np.isfinite(logits).all():
        return 0
    if rule.temperature == 0:
        return int(np.argmax(logits))
    kept, scaled = truncated(logits, rule.temperature, rule.top_k or DRAFT_TOP_K, rule.top_p, rule.min_p)
    noise = gumbel(rule.seed, rule.choice, position, candidates[kept])
    return int(kept[np.argmax(scaled + noise)])


STOP_BINS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftStop:
    """When a draft ends before k tokens.

    After draft token j with probability q: survival *= calibration[bin of q], bins of equal width over 0..1; token
    j + 1 is drafted only if survival * ahead[j + 1] >= need[j + 1].

    Attributes:
        calibration: float32 [STOP_BINS], chance that a draft token of this confidence is accepted.
        ahead: float32 [>= k], chance that draft token j is accepted before it is known.
        need: float32 [>= k], the smallest survival that pays for draft token j.
    """

    calibration: F32
    ahead: F32
    need: F32


def confidence_bin(confidence: float) -> int:
    """Index into `DraftStop.calibration`; NaN counts as 0."""
    return min(int(confidence * STOP_BINS), STOP_BINS - 1) if confidence > 0 else 0
