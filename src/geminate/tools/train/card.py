"""The model card of a trained drafter: what it was trained on, how, and what it reached."""

from __future__ import annotations

import json
from typing import Any

from geminate.tools.train.gate import Comparison


def model_card(
    *,
    target: str,
    data: str,
    command: str,
    settings: dict[str, Any],
    history: list[dict[str, Any]],
    comparisons: list[Comparison],
    better: bool,
    examples: dict[str, int],
) -> str:
    """README.md with YAML front matter."""
    rows = "\n".join(
        f"| {c.category} | {c.prompts} | {c.old:.3f} | {c.new:.3f} | {c.low:+.3f} to {c.high:+.3f} |"
        for c in comparisons
    )
    last = max(history, key=lambda h: h["length"]) if history else {}
    recall = last.get("recall")
    lines = [
        "---", "library_name: transformers", "tags:", "- speculative-decoding", "- mtp", "- geminate", "---", "",
        "# MTP drafter", "",
        f"Drafter (`Gemma4AssistantForCausalLM`) of the target `{target}`, trained with `geminate train drafter`.",
        "It drafts and the target decides: the output does not depend on it, only the speed.", "",
        "    " + command, "",
        f"Data: `{data}`; {examples['training']} texts to learn from, {examples['held_out']} held out.", "",
        "## Held-out acceptance length as served (tokens a round)", "",
        "| category | prompts | before | now | difference, 95 % interval |", "|---|---|---|---|---|", rows, "",
        f"Verdict of the gate: {'better' if better else 'not better'}.", "",
        f"Teacher-forced survival by position at the best checkpoint (update {last.get('step')}): "
        + ", ".join(f"{s:.3f}" for s in last.get("survival", [])) + ".",
        *([f"Cluster recall of the centroid head: {recall:.3f}."] if recall is not None else []),
        "", "## Settings", "", "```json", json.dumps(settings, indent=2), "```", "",
        "The target's licence and that of the data may bind this drafter.", "",
    ]  # fmt: skip
    return "\n".join(lines)
