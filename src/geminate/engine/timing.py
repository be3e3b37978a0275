"""Where a step's time goes, and what the cost model learns from it."""

from __future__ import annotations

import time

from geminate.engine.messages import EngineEvent
from geminate.engine.scheduler import Turn
from geminate.speculation.costs import CostModel


class Timing:
    """A stopwatch over the parts of a step: drafting, the forward pass, the rest.

    Attributes:
        costs: what rounds cost here; refreshed from every step that shows it.
        drafting, last_pass, rest: seconds of the last step until its draft was made, of its forward pass, and of
            what followed.
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self.drafting = self.last_pass = self.rest = 0.0
        self._began = self._drafted = self._passed = 0.0
        self._in_series = False  # whether the last round drafted

    def begin(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def drafted(self) -> None:
        """Drafting is over."""
        self._drafted = time.perf_counter()
        self.drafting = self._drafted - self._began

    def passed(self) -> None:
        """The forward pass is over."""
        self._passed = time.perf_counter()
        self.last_pass = self._passed - self._drafted

    def observe(self, turns: list[Turn], events: list[EngineEvent]) -> None:
        """A step is over: teach the cost model, and add the step's time to every sequence's statistics."""
        now = time.perf_counter()
        self.rest = now - self._passed
        # Only the round of one sequence alone belongs to one draft length.
        if len(turns) == 1 and turns[0].is_round and events and events[0].token_ids:
            self._observe_round(turns[0], len(events[0].token_ids))
        for turn in turns:
            turn.sequence.stats.count_time(now - self._began)

    def _observe_round(self, turn: Turn, emitted: int) -> None:
        draft = turn.draft
        # The first draft after a pause finds its weights far from the core: no measure for a series of them.
        if self._in_series or not draft.steps:
            position = len(turn.sequence.token_ids) - emitted
            # What every token costs, drafted or not, says nothing about draft lengths; a round's own share is taken to
            # be as large as a token's.
            seconds = self.drafting + self.last_pass + self.rest / (emitted + 1)
            self.costs.observe_round(len(draft.token_ids), draft.steps, position, seconds)
        self._in_series = draft.steps > 0
