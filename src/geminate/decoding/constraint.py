"""Protocol for constrained decoding: which tokens may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class MaskPendingError(Exception):
    """What is allowed at a position is still being computed; the sequence sits out until it is known."""


class Constraint(Protocol):
    """The state of one grammar in one sequence; it advances with every emitted token.

    The target's distribution at a row is restricted to `allowed` after the tokens before that row, so the completion
    is the same whatever was drafted.
    """

    def allowed(self) -> NDArray[np.bool_]:
        """Bool [vocab], at least one True; valid until the state changes.

        Raises:
            MaskPendingError: it is not known yet, and will not be for a while.
        """
        ...

    def ready(self) -> bool:
        """Whether `allowed` is known, or will be within a pass."""
        ...

    def be_patient(self, seconds: float) -> None:
        """A round begins, in which `allowed` and `forced` may wait for ``seconds`` in all."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until it is, ``seconds`` at most."""
        ...

    def prepare(self, tokens: Sequence[int] = ()) -> None:
        """Begin to compute what is allowed now and after each of ``tokens``, in order; the state stays."""
        ...

    def fail(self, why: str) -> None:
        """The sequence ended because it could not follow its grammar."""
        ...

    def close(self) -> None:
        """The sequence has ended: what is still being computed is not needed."""
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
