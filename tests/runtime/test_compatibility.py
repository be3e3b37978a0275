"""A drafter that cannot read its target's K and V is refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geminate.errors import DrafterMismatchError
from geminate.families.registry import load_assistant_config, load_target_config
from geminate.plan.config import AssistantConfig
from geminate.runtime.compatibility import check_fit
from support.fabricate import SIZES


@pytest.mark.parametrize("size", SIZES)
def test_each_pair_fits_and_no_other(size: str, models: dict[str, Path]) -> None:
    target = load_target_config(models[size])
    for other in SIZES:
        drafter = load_assistant_config(models[other].with_name(f"{other}-assistant"))
        if other == size:
            check_fit(target, drafter)
        elif drafter.backbone_hidden_size != target.hidden_size:
            with pytest.raises(DrafterMismatchError, match="backbone size"):
                check_fit(target, drafter)


def changed(drafter: AssistantConfig, index: int, **changes: Any) -> AssistantConfig:
    layers = list(drafter.text.layers)
    layers[index] = replace(layers[index], **changes)
    return replace(drafter, text=replace(drafter.text, layers=tuple(layers)))


@pytest.mark.parametrize(
    ("index", "changes", "says"),
    [
        (0, {"kv_heads": 4}, "KV heads of sliding_attention 4 in the drafter, 1 in the target"),
        (1, {"window": 7}, "window of sliding_attention 7"),
        (3, {"head_dim": 64}, "head dim of full_attention 64"),
    ],
)
def test_every_layer_counts(index: int, changes: dict[str, Any], says: str, models: dict[str, Path]) -> None:
    drafter = load_assistant_config(models["E2B"].with_name("E2B-assistant"))
    with pytest.raises(DrafterMismatchError, match=says):
        check_fit(load_target_config(models["E2B"]), changed(drafter, index, **changes))


def test_vocabulary(models: dict[str, Path]) -> None:
    drafter = load_assistant_config(models["E2B"].with_name("E2B-assistant"))
    with pytest.raises(DrafterMismatchError, match="vocabulary 999"):
        check_fit(load_target_config(models["E2B"]), replace(drafter, text=replace(drafter.text, vocab_size=999)))
