"""How likely draft tokens are to be accepted: by position, by the drafter's confidence, by length of a match."""

from __future__ import annotations

import bisect
from collections.abc import Sequence as Seq

from geminate.decoding.draft_rule import STOP_BINS, confidence_bin
from geminate.params import MAX_DRAFT


class Rates:
    """Exponentially forgetting frequencies, each leaning on a prior while there is little evidence.

    Args:
        prior: n frequencies, assumed at first.
        weight: trials the prior counts for.
        keep: how much of the past a trial keeps: 0.966 forgets half in 20.
    """

    def __init__(self, prior: Seq[float], *, weight: float, keep: float) -> None:
        self.prior, self.weight, self.keep = prior, weight, keep
        self._tried = [0.0] * len(prior)
        self._passed = [0.0] * len(prior)

    def values(self, lean: Seq[float] | None = None) -> list[float]:
        """The estimates, n of them, leaning on ``lean`` instead of the prior, if given."""
        prior, w = self.prior if lean is None else lean, self.weight
        return [(p + w * q) / (t + w) for p, t, q in zip(self._passed, self._tried, prior, strict=True)]

    def value(self, at: int) -> float:
        """The estimate of frequency ``at``."""
        return (self._passed[at] + self.weight * self.prior[at]) / (self._tried[at] + self.weight)

    def observe(self, at: int, passed: float) -> None:
        """Count a trial of frequency ``at``: 1 if it passed, 0 if not, or the chance that it would have."""
        self._tried[at] = self.keep * self._tried[at] + 1
        self._passed[at] = self.keep * self._passed[at] + passed


class PositionRates(Rates):
    """Chance that draft token i is accepted if those before it were."""

    FIRST = 0.7

    def __init__(self, *, weight: float = 4.0, keep: float) -> None:
        super().__init__([self.FIRST] * MAX_DRAFT, weight=weight, keep=keep)

    def observe_round(self, drafted: int, accepted: int, next_chance: float | None = None) -> None:
        """Count the positions that were put to the test: the accepted ones and the first rejected.

        Args:
            next_chance: of acceptance, of the token behind them that was made and not verified; None: there is none.
                Were it not counted, drafts that are never verified would look as good as at first.
        """
        for i in range(min(drafted, accepted + 1, MAX_DRAFT)):
            self.observe(i, i < accepted)
        if next_chance is not None and accepted == drafted < MAX_DRAFT:
            self.observe(drafted, next_chance)


class Calibration(Rates):
    """Chance of acceptance by the drafter's confidence, in bins of equal width; at first it is taken at its word."""

    def __init__(self) -> None:
        super().__init__([(b + 0.5) / STOP_BINS for b in range(STOP_BINS)], weight=4.0, keep=0.995)

    def observe_round(self, confidence: tuple[float, ...], drafted: int, accepted: int) -> None:
        """Count the draft tokens that were put to the test."""
        for i in range(min(drafted, accepted + 1, len(confidence))):
            self.observe(confidence_bin(confidence[i]), i < accepted)


class MatchRates(Rates):
    """Chance that a copied token is accepted, by how many tokens agree before it."""

    LEAST = (3, 4, 5, 7, 10, 16, 32)  # agreement from which a class counts
    PRIORS = (0.35, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94)  # of ordinary text; soon outweighed by the text at hand

    def __init__(self, *, weight: float = 4.0, keep: float) -> None:
        super().__init__(self.PRIORS, weight=weight, keep=keep)

    @classmethod
    def kind(cls, length: int) -> int:
        """Class of an agreement of ``length`` >= 3 tokens."""
        return bisect.bisect_right(cls.LEAST, length) - 1

    def observe_round(self, length: int, drafted: int, accepted: int) -> None:
        """Count the copied tokens that were verified; the agreement grows with each."""
        for i in range(min(drafted, accepted + 1)):
            self.observe(self.kind(length + i), i < accepted)


class AcceptanceStats:
    """What the sequences of an engine have learned about drafts together."""

    def __init__(self) -> None:
        self.positions = PositionRates(keep=0.997)
        self.calibration = Calibration()
        self.matches = MatchRates(keep=0.99)
