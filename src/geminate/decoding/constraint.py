"""What restricts a reply to a grammar: which tokens may come next."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one grammar in one sequence; it advances with every emitted token.

    The target's law at a row is restricted to `allowed` of the tokens before that row, so a reply is the same
    whatever was drafted.
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
        """Tokens that the grammar leaves little choice about, possibly none: a guess for drafts."""
        ...
