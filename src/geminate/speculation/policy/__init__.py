"""Policies: what a sequence drafts next."""

from __future__ import annotations

from typing import Literal

from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Drafter
from geminate.speculation.policy.auto import AutoPolicy
from geminate.speculation.policy.base import REASONS, UNDRAFTED, Decision, DraftAverages, Policy, Reason
from geminate.speculation.policy.fixed import FixedPolicy, NgramPolicy

__all__ = [
    "REASONS", "UNDRAFTED", "AutoPolicy", "Decision", "DraftAverages", "FixedPolicy", "NgramPolicy", "Policy", "Reason",
    "make_policy",
]  # fmt: skip


def make_policy(
    speculation: Literal["auto", "ngram"] | int,
    drafter: Drafter | None,
    costs: CostModel,
    stats: AcceptanceStats,
    *,
    copies: bool = True,
) -> Policy:
    """The policy of one sequence.

    Args:
        speculation: as `geminate.params.parse_speculation` gives it.
        copies: whether ``auto`` may make prompt-lookup (n-gram) drafts.
    """
    if speculation == "auto":
        return AutoPolicy(drafter, costs, stats, copies=copies)
    return NgramPolicy() if speculation == "ngram" else FixedPolicy(drafter, speculation)
