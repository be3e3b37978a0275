"""Where a step's time goes, and what the cost model learns from it."""

from __future__ import annotations

import time

from geminate.engine.messages import EngineEvent
from geminate.engine.pace import PromptPace
from geminate.engine.scheduler import Turn
from geminate.speculation.costs import UNKNOWN, CostModel


class Timing:
    """A stopwatch over the parts of a step: drafting, the forward pass, the rest.

    Args:
        costs: what passes and draft steps cost here; refreshed from every step that shows it.
        max_gap_s: seconds between two tokens of a sequence that decodes; see `PromptPace`.
    """

    def __init__(self, costs: CostModel, max_gap_s: float) -> None:
        self.costs = costs
        self._pace = PromptPace(max_gap_s)
        self._began = self._drafted = self._passed = self._last_pass = 0.0
        self._drafting = False  # whether the last single round drafted

    def begin(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def drafted(self) -> None:
        """Drafting is over."""
        self._drafted = time.perf_counter()

    def passed(self) -> None:
        """The forward pass is over."""
        self._passed = time.perf_counter()
        self._last_pass = self._passed - self._drafted

    @property
    def last_pass(self) -> float:
        """Seconds that the last forward pass took."""
        return self._last_pass

    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self._began

    def prompt_rows(self, decoding_rows: int) -> int:
        """Prompt rows that a pass with so many other rows may take."""
        return self._pace.rows(self._plain(decoding_rows))

    def _plain(self, rows: int) -> float:
        """Seconds of a pass over ``rows`` >= 0 rows without prompts; 0 as long as nobody knows."""
        known = self.costs.knows_plain or self.costs.profile is not UNKNOWN
        return self.costs.pass_time(rows) if rows and known else 0.0

    def observe(self, turns: list[Turn], events: list[EngineEvent]) -> None:
        """A step is over: teach the cost model, and add the step's time to every sequence's statistics."""
        took = self.elapsed()
        single = is_single_round(turns)
        if single or all(turn.is_round for turn in turns):
            self.costs.observe_pass(sum([turn.count for turn in turns]), self._passed - self._drafted)
        if single and events:
            steps = turns[0].draft.steps
            # The first draft after a pause finds its weights far from the core: no measure for a series of them.
            if steps and self._drafting:
                self.costs.observe_draft(steps, self._drafted - self._began)
            self._drafting = steps > 0
            aside = self._passed - (self._began if steps else self._drafted)
            self.costs.observe_overhead(took - aside, len(events[0].token_ids))
        prompt_rows = sum([turn.count for turn in turns if not turn.is_round])
        if prompt_rows and not any(turn.scored for turn in turns):
            others = sum([turn.count for turn in turns if turn.is_round])
            self._pace.observe(prompt_rows, took, self._plain(others))
        for turn in turns:
            turn.sequence.stats.count_time(took)


def is_single_round(turns: list[Turn]) -> bool:
    """Whether a step is the round of one sequence alone: only then its time belongs to one draft length."""
    return len(turns) == 1 and turns[0].is_round
