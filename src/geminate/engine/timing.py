"""Where a step's time goes, and what the cost model learns from it."""

from __future__ import annotations

import time
from collections.abc import Callable

from geminate.engine.messages import EngineEvent
from geminate.engine.pace import PromptPace
from geminate.engine.scheduler import Turn
from geminate.speculation.costs import PROFILE_ROWS, CostModel


class Timing:
    """A stopwatch over the parts of a step: drafting, the forward pass, the rest.

    Args:
        costs: what rounds cost here; refreshed from every step that shows it.
        max_gap_s: seconds between two tokens of a sequence that decodes; see `PromptPace`.
        clock: seconds.

    Attributes:
        drafting, last_pass, rest: seconds of the last step until its draft was made, of its forward pass, and of
            what followed.
    """

    def __init__(self, costs: CostModel, max_gap_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.costs = costs
        self._clock = clock
        self.drafting = self.last_pass = self.rest = 0.0
        self._pace = PromptPace(max_gap_s)
        self._began = self._drafted = self._passed = 0.0
        self._in_series = False  # whether the last round drafted

    def begin(self) -> None:
        """A step begins."""
        self._began = self._clock()

    def drafted(self) -> None:
        """Drafting is over."""
        self._drafted = self._clock()
        self.drafting = self._drafted - self._began

    def passed(self) -> None:
        """The forward pass is over."""
        self._passed = self._clock()
        self.last_pass = self._passed - self._drafted

    def prompt_rows(self, decoding_rows: int) -> int:
        """Prompt rows that a pass with so many other rows may take."""
        return self._pace.rows(self._plain(decoding_rows))

    @property
    def prompt_row_s(self) -> float:
        """Seconds that a token of a prompt takes to read; until one was timed, a row's share of a pass over 17."""
        known = self._pace.row_s
        return self.costs.pass_time(PROFILE_ROWS) / PROFILE_ROWS if known is None else known

    def _plain(self, rows: int) -> float:
        """Seconds of a pass over ``rows`` >= 0 rows without prompts; 0 as long as nobody knows."""
        return self.costs.pass_time(rows) if rows else 0.0

    def observe(self, turns: list[Turn], events: list[EngineEvent]) -> None:
        """A step is over: teach the cost model, and add the step's time to every sequence's statistics."""
        now = self._clock()
        took = now - self._began
        self.rest = now - self._passed
        if all(turn.is_round for turn in turns):
            tokens = sum([len(event.token_ids) for event in events])
            outside = self.rest / (tokens + len(turns))
            self.costs.observe_pass(sum([turn.count for turn in turns]), self.last_pass, outside)
            # Only the round of one sequence alone belongs to one draft length.
            if len(turns) == 1 and events and events[0].token_ids:
                self._observe_round(turns[0], len(events[0].token_ids))
        elif not any(turn.scored for turn in turns):
            prompt_rows = sum([turn.count for turn in turns if not turn.is_round])
            others = sum([turn.count for turn in turns if turn.is_round])
            self._pace.observe(prompt_rows, took, self._plain(others))
        for turn in turns:
            turn.sequence.stats.count_time(took)

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
