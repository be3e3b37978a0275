"""What drafting may lose: one account in tokens, kept with estimates of costs and counted tokens, without a clock."""

from __future__ import annotations


class LossAccount:
    """What a sequence has won or lost by drafting, against plain decoding, in tokens.

    Drafts that the estimates call for may lose up to `LIMIT`; a text that misleads them costs no more. What they do not
    call for is tried as long as the account bears its price: `TRIAL` at first, then `INCOME` of every round.
    """

    LIMIT = 8.0
    TRIAL = 0.75
    INCOME = 0.01
    MOST = 4.0

    def __init__(self) -> None:
        self.balance = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether the next round must be a plain one."""
        return self.balance < -self.LIMIT

    def bears(self, price: float) -> bool:
        """Whether a draft may be tried that is expected to lose ``price`` tokens."""
        return self.balance + self.TRIAL >= price

    def count(self, won: float, sequences: int) -> None:
        """A round is over.

        Args:
            won: tokens that its draft won.
            sequences: in the batch; what one learns, all learn, so they share the income.
        """
        self.balance = min(self.MOST, self.balance + won + self.INCOME / sequences)
