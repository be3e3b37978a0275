"""How many prompt rows a pass takes while other sequences decode, from what such rows have cost so far."""

from __future__ import annotations

MAX_GAP_S = 0.1
"""Default for the time between two tokens while prompts are read: ten tokens a second, faster than people read."""
FIRST_ROWS = 32  # before any prompt was timed: near the best rate of longer chunks, in a fraction of their time
WEIGHT = 0.2  # of a new timing
CLIP = 2.0  # a preempted pass may take ten times as long; no single one moves the estimate far
TINY = 1e-9  # seconds; a clock may not have moved


class PromptPace:
    """Sizes the prompts' part of a pass so that those who decode get their next tokens in time.

    Args:
        limit_s: seconds between two tokens of a sequence that decodes, at most, as far as prompts are the cause.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._row_s: float | None = None

    def rows(self, plain_s: float) -> int:
        """Prompt rows of a pass that would take ``plain_s`` seconds without them.

        At least one, and where ``plain_s`` is more than half of the limit as many as double the pass: a model that is
        slow by itself would read no prompts otherwise.
        """
        if self._row_s is None:
            return FIRST_ROWS
        return max(1, int(max(self.limit_s - plain_s, plain_s) / self._row_s))

    @property
    def row_s(self) -> float | None:
        """Seconds that a prompt row adds to a pass; None: no prompt was timed yet."""
        return self._row_s

    def observe(self, rows: int, seconds: float, plain_s: float) -> None:
        """Count a pass with ``rows`` > 0 prompt rows; ``plain_s``: what it would have taken without them."""
        row_s = max(seconds - plain_s, TINY) / rows
        if self._row_s is None:
            self._row_s = row_s
        else:
            self._row_s *= min(max(row_s / self._row_s, 1 / CLIP), CLIP) ** WEIGHT
