"""Statistics of an output, as a line for people and as JSON."""

from __future__ import annotations

from typing import Any

from geminate.output import Output


def summary(out: Output) -> str:
    """The line on stderr after an answer."""
    s = out.stats
    lengths = " ".join(f"{k}:{n}" for k, n in sorted(s.draft_lengths.items()))
    return (
        f"{s.generated_tokens} tokens, {s.tokens_per_s:.0f} tokens/s, {s.rounds} rounds, "
        f"acceptance length {s.acceptance_length:.2f}, draft length:rounds {lengths}, "
        f"prefill {s.prefill_s * 1000:.0f} ms, seed {out.seed}, {out.finish_reason}"
    )


JSON_STATS = (
    "prompt_tokens", "generated_tokens", "rounds", "drafted", "accepted", "accepted_per_position",
    "drafted_per_position", "acceptance_length", "draft_lengths", "copied", "copied_accepted", "prefill_s", "decode_s",
    "tokens_per_s",
)  # fmt: skip


def stats_json(out: Output) -> dict[str, Any]:
    """Statistics under the names of `Stats`."""
    return {name: getattr(out.stats, name) for name in JSON_STATS}
