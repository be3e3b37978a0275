"""What keeps drafting from losing time, whatever the estimates say: an account of losses, and growing pauses."""

from __future__ import annotations

from geminate.speculation.acceptance import AcceptanceStats

MAX_PAUSE = 64  # rounds
KEEP = 0.9  # of a recent gain, per round


class LossAccount:
    """Time lost against plain decoding, in plain rounds. Beyond DEBT it is paid off with plain rounds first.

    A text that misleads every estimate costs a bounded amount.
    """

    DEBT = 8.0
    CREDIT = 32.0
    REPAY = 0.02
    PLAIN_EVERY = 256  # rounds after which the cost of a plain one is measured again

    def __init__(self) -> None:
        self.debt = 0.0
        self._since_plain = 0

    def wants_plain(self) -> bool:
        """Whether the next round must be a plain one."""
        return self.debt > self.DEBT or self._since_plain >= self.PLAIN_EVERY

    def count_round(self, drafted: int) -> None:
        """A round is over."""
        self._since_plain = self._since_plain + 1 if drafted else 0

    def repay(self) -> None:
        """A round without any drafting is over."""
        self.debt = max(self.debt - self.REPAY, -self.CREDIT)

    def charge(self, plain_rounds: float, tokens: int) -> None:
        """A drafting round took the time of so many plain ones and emitted ``tokens``."""
        self.debt = max(self.debt - (tokens - plain_rounds), -self.CREDIT)


class ProbeSchedule:
    """Where the drafter does not pay, it is tried at intervals that double: acceptance cannot be learned without.

    Args:
        stats: what all sequences have gained; a new one starts from it.
    """

    OPTIMISM = 0.15  # plain rounds that drafting may lose at first
    FIRST = 8  # rounds of the first pause

    def __init__(self, stats: AcceptanceStats) -> None:
        self._stats = stats
        self._gain = min(self.OPTIMISM, stats.gain)
        self._pause, self._idle = self.FIRST, 0.0

    def waits(self, pays: bool, sequences: int) -> bool:
        """Whether to leave the drafter alone in this round.

        Args:
            pays: whether the plan, if there is one, says that drafts pay.
            sequences: other sequences in the batch: what one learns, all learn, so together they try as often as one.
        """
        if self._gain >= 0.0 and pays:
            self._pause, self._idle = self.FIRST, 0.0
            return False
        self._idle += 1 / (1 + sequences)
        if self._idle < self._pause:
            return True
        self._pause, self._idle = min(2 * self._pause, MAX_PAUSE), 0.0
        return False

    def count_gain(self, tokens: float) -> None:
        """A drafting round saved (or lost) the time of so many tokens."""
        gained = min(max(tokens, -1.0), 1.0)
        self._gain = KEEP * self._gain + gained
        self._stats.observe_gain(gained)


class RestSchedule:
    """In a batch, a sequence whose drafts have paid neither for their rows nor for the deciding stops deciding.

    Rests double up to `MAX_PAUSE` rounds; new sequences begin with the rest that the others have learned.
    """

    PATIENCE = 0.5  # tokens that deciding may lose before a rest

    def __init__(self, stats: AcceptanceStats) -> None:
        self._stats = stats
        self._left, self._next = stats.rest, max(8, stats.rest)
        self._worth = 0.0

    def rests(self) -> bool:
        """Whether to make no draft in this shared round; counts it."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def weigh(self, value: float) -> None:
        """A shared round's draft was worth so many tokens of the batch."""
        self._worth = KEEP * self._worth + value
        if self._worth < -self.PATIENCE:
            self._left = self._stats.rest = self._next
            self._worth = 0.0
            self._next = min(2 * self._next, MAX_PAUSE)
        elif self._worth > self.PATIENCE:
            self._next = 8
            self._stats.rest = 0
