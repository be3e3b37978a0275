"""Statistics of one completion."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field


@dataclass
class Stats:
    """What a generation did. Times in seconds.

    Attributes:
        prompt_tokens: tokens of the prompt; reused_tokens: how many of them were taken from a cache.
        rounds: verification passes, including the first one, which ends the prefill.
        drafted, accepted: draft tokens made, draft tokens emitted.
        accepted_per_position: how often draft token i (from 0) was emitted; drafted_per_position: how often tried.
        draft_lengths: draft length -> number of rounds with it.
        undrafted: reason -> number of rounds that had no draft for it; see docs/speculation.md.
        copied, copied_accepted: the part of drafted and accepted that came from prompt-lookup (n-gram) drafts.
        prefill_s: until the first token's pass is done; decode_s: from there to the end.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    drafted_per_position: list[int] = field(default_factory=list)
    draft_lengths: dict[int, int] = field(default_factory=dict)
    undrafted: dict[str, int] = field(default_factory=dict)
    copied: int = 0
    copied_accepted: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    _decoding: bool = field(default=False, repr=False)

    @property
    def acceptance_length(self) -> float:
        """Mean tokens per round, 1 + accepted / rounds."""
        return 1.0 + self.accepted / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first over the time they took."""
        return (self.generated_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0

    def behind(self, earlier: Stats) -> Stats:
        """The statistics of a completion of which ``earlier`` counts what was emitted before it was continued here."""
        whole = Stats(prompt_tokens=self.prompt_tokens, reused_tokens=min(self.reused_tokens, self.prompt_tokens))
        for part in (earlier, self):
            for name in ("generated_tokens", "rounds", "drafted", "accepted", "copied", "copied_accepted", "decode_s"):
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
            for length, count in part.draft_lengths.items():
                whole.draft_lengths[length] = whole.draft_lengths.get(length, 0) + count
            for reason, count in part.undrafted.items():
                whole.undrafted[reason] = whole.undrafted.get(reason, 0) + count
            whole.accepted_per_position = _added(whole.accepted_per_position, part.accepted_per_position)
            whole.drafted_per_position = _added(whole.drafted_per_position, part.drafted_per_position)
        whole.prefill_s = earlier.prefill_s
        whole.decode_s += self.prefill_s  # reading the prompt again was a pause between two tokens
        return whole

    def count_time(self, seconds: float) -> None:
        """Add a step's time: to the prefill up to and including the first round, then to decoding."""
        if not self._decoding:
            self.prefill_s += seconds
            self._decoding = self.rounds == 1
        else:
            self.decode_s += seconds

    def count_round(self, drafted: int, accepted: int, *, copied: bool = False, reason: str | None = None) -> None:
        """Add one verification pass; ``copied``: its draft was an n-gram draft; ``reason``: why it had none."""
        self.rounds += 1
        if reason is not None:
            self.undrafted[reason] = self.undrafted.get(reason, 0) + 1
        if copied:
            self.copied += drafted
            self.copied_accepted += accepted
        self.drafted += drafted
        self.accepted += accepted
        self.draft_lengths[drafted] = self.draft_lengths.get(drafted, 0) + 1
        while len(self.accepted_per_position) < drafted:
            self.accepted_per_position.append(0)
            self.drafted_per_position.append(0)
        for i in range(drafted):
            self.drafted_per_position[i] += 1
            self.accepted_per_position[i] += i < accepted


def _added(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in itertools.zip_longest(a, b, fillvalue=0)]
