"""Requests between `submit` and their last event, and the events that nobody has taken yet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.sequence import Sequence

Sink = Callable[[list[EngineEvent]], None]


@dataclass(eq=False, slots=True)
class OpenRequest:
    """A request from `submit` until its last event, or until it is cancelled.

    Attributes:
        unfinished: completions whose last event is still to come. begun: whether all completions were started.
    """

    request: EngineRequest
    sink: Sink
    unfinished: int
    deadline: float = math.inf
    begun: bool = False
    sequences: dict[int, Sequence] = field(default_factory=dict)


class EventBox:
    """Events of one request on their way to the thread that waits for them."""

    def __init__(self, completions: int) -> None:
        self.events: deque[EngineEvent] = deque()
        self.unfinished = completions

    def next(self) -> EngineEvent:
        """Take an event; raises what ended the request."""
        event = self.events.popleft()
        if event.finish_reason is not None:
            self.unfinished -= 1
            if event.error is not None:
                self.unfinished = 0
                raise event.error
        return event
