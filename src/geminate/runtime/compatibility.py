"""Whether a drafter can work with a target."""

from __future__ import annotations

import numpy as np

from geminate.errors import DrafterMismatchError
from geminate.plan.config import AssistantConfig, RopeConfig, TargetConfig


def check_fit(target: TargetConfig, drafter: AssistantConfig) -> None:
    """Compare everything the drafter takes from the target.

    Raises:
        DrafterMismatchError: with the reason.
    """
    problems: list[str] = []

    def compare(what: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            problems.append(f"{what} {ours} in the drafter, {theirs} in the target")

    compare("backbone size", drafter.backbone_hidden_size, target.hidden_size)
    compare("vocabulary", drafter.text.vocab_size, target.vocab_size)
    donors = {layer.kind: layer for layer in target.layers if not layer.kv_shared}
    seen = {(la.kind, la.kv_heads, la.head_dim, la.window): la for la in drafter.text.layers}
    for layer in seen.values():
        donor = donors.get(layer.kind)
        if donor is None:
            problems.append(f"the target has no {layer.kind} layer to read from")
            continue
        compare(f"KV heads of {layer.kind}", layer.kv_heads, donor.kv_heads)
        compare(f"head dim of {layer.kind}", layer.head_dim, donor.head_dim)
        compare(f"window of {layer.kind}", layer.window, donor.window)
    # A drafter's queries meet keys that the target has rotated: with other frequencies their distances mean nothing.
    # The output would still be right and only acceptance suffer, unseen; hence a refusal.
    for kind in sorted({layer.kind for layer in drafter.text.layers} & donors.keys()):
        same_dim = all(la.head_dim == donors[kind].head_dim for la in drafter.text.layers if la.kind == kind)
        if same_dim and not np.array_equal(drafter.text.inv_freq(kind), target.inv_freq(kind)):
            compare(f"rope of {kind}", _described(drafter.text.rope[kind]), _described(target.rope[kind]))
    if problems:
        raise DrafterMismatchError("this drafter does not fit the target: " + "; ".join(problems))


def _described(rope: RopeConfig) -> str:
    part = f", {rope.partial_rotary_factor:g} of the pairs" if rope.rope_type == "proportional" else ""
    return f"({rope.rope_type}, theta {rope.theta:.17g}, factor {rope.factor:.17g}{part})"
