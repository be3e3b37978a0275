"""Protocol for constrained decoding: which tokens may come next."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one grammar in one sequence; it advances with every emitted token.

    The target's distribution at a row is restricted to `allowed` after the tokens before that row, so the completion
    is the same whatever was drafted.
    """

    def allowed(self) -> NDArray[np.bool_]:
        """Bool [vocab], at least one True; valid until the state changes."""
        ...

    def advance(self, token: int) -> None:
        """Take an allowed token."""
        ...

    def rollback(self, count: int) -> None:
        """Undo the last ``count`` calls of `advance`."""
        ...

    def forced(self) -> tuple[int, ...]:
        """Likely next tokens where the grammar leaves little choice, possibly none; used as a draft."""
        ...
