"""Statistics of an output, as a line for people and as JSON."""

from __future__ import annotations

import time
from typing import Any

from geminate.output import Delta, Output

SLOW_PREFILL = 1.0  # seconds from which reading the prompt is worth a word


def summary(out: Output) -> str:
    """The line on stderr after an answer."""
    s = out.stats
    line = counted(s.generated_tokens, s.rounds, s.decode_s, s.tokens_per_s)
    if why := undrafted(out):
        line += f"; {why}"
    if s.prefill_s >= SLOW_PREFILL:
        line += f"; prompt of {s.prompt_tokens:,} tokens read in {_seconds(s.prefill_s)}"
    if s.reused_tokens:
        line += f"; {s.reused_tokens:,} of {s.prompt_tokens:,} prompt tokens from the cache"
    return f"{line}; seed {out.seed}" if out.seed else line


def undrafted(out: Output) -> str:
    """Why rounds had no draft, most frequent first; empty where all had one but the first, which ends the prompt."""
    s = out.stats
    reasons = {reason: n for reason, n in s.undrafted.items() if reason != "prompt"}
    if not reasons:
        return ""
    if "off" in reasons:
        return "speculation off"
    many = sorted(reasons.items(), key=lambda item: -item[1])
    words = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in many)
    return f"{sum(reasons.values()):,} of {s.rounds:,} rounds without a draft ({words})"


class Counting:
    """Counts an answer while it comes: of one that is stopped there is no `Output`."""

    def __init__(self) -> None:
        self._began = self._first = time.perf_counter()
        self.tokens = self.passes = 0

    def add(self, delta: Delta) -> None:
        """A part of the answer."""
        if not self.passes:
            self._first = time.perf_counter()
        self.tokens, self.passes = self.tokens + len(delta.token_ids), self.passes + 1

    def stopped(self) -> str:
        """The line for an answer that was stopped now."""
        if self.tokens == 0:
            return "stopped before the first token"
        seconds = time.perf_counter() - self._first
        rate = (self.tokens - 1) / seconds if seconds > 0 else 0.0
        return (
            f"stopped: {counted(self.tokens, self.passes, seconds, rate)}; "
            f"first token after {self._first - self._began:.2f} s"
        )


def counted(tokens: int, passes: int, seconds: float, rate: float) -> str:
    """Tokens, time, speed, and what speculation saved: without it every token takes a forward pass."""
    saved = tokens - passes
    what = f"{saved:,} of {tokens:,} passes saved" if saved > 0 else "no pass saved"
    speed = f", {rate:,.0f} a second" if rate >= 10 else f", {rate:.1f} a second" if rate > 0 else ""
    return f"{tokens:,} token{'s' * (tokens != 1)} in {_seconds(seconds)}{speed}; {what}"


def details(out: Output) -> str:
    """What ``/stats`` adds: rounds, acceptance and draft lengths."""
    s = out.stats
    lengths = ", ".join(f"{k}: {n:,}" for k, n in sorted(s.draft_lengths.items()))
    copied = f", {s.copied_accepted} of {s.copied} copied from the text" if s.copied else ""
    return (
        f"prompt {s.prompt_tokens:,} tokens, {s.reused_tokens:,} of them from the cache, {_seconds(s.prefill_s)}; "
        f"{s.accepted:,} of {s.drafted:,} draft tokens accepted{copied}, {s.acceptance_length:.2f} tokens a round; "
        f"rounds by draft length: {lengths}"
    )


def limit_reached(out: Output, max_tokens: int) -> str | None:
    """What to say of an answer that was cut off."""
    if out.finish_reason != "length":
        return None
    if out.stats.generated_tokens >= max_tokens:
        return f"cut at the limit of {max_tokens:,} tokens (-n, --max-tokens)"
    return "cut because the context is full"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


JSON_STATS = (
    "prompt_tokens", "reused_tokens", "generated_tokens", "rounds", "drafted", "accepted", "accepted_per_position",
    "drafted_per_position", "acceptance_length", "draft_lengths", "undrafted", "copied", "copied_accepted", "prefill_s",
    "decode_s", "tokens_per_s",
)  # fmt: skip


def stats_json(out: Output) -> dict[str, Any]:
    """Statistics under the names of `Stats`."""
    return {name: getattr(out.stats, name) for name in JSON_STATS}
