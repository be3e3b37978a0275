"""What shares a forward pass with a sequence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLoad:
    """Other requests in the batch, from one sequence's point of view.

    Attributes:
        sequences: other sequences that decode. rows: their expected rows. tokens: what they are expected to emit.
        prompt_rows: rows of prompts.
    """

    sequences: int = 0
    rows: int = 0
    tokens: float = 0.0
    prompt_rows: int = 0

    @property
    def shared(self) -> bool:
        """Whether anything shares the pass: then its time cannot be attributed to one sequence."""
        return self.sequences > 0 or self.prompt_rows > 0


NO_LOAD = BatchLoad()
